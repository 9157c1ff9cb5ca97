"""Bad data folders, annotation files and results."""

import json
from pathlib import Path
from typing import Any

import folders
from bad import SCORE, TRAIN, Bad, Make, at, both, coco, noise, nothing
from PIL import Image


def text(content: str | bytes) -> Make:
    return lambda root: folders.coco(root / "data", content)


def one(table: str, **values: Any) -> Make:
    return coco(lambda document: document[table][0].update(values))


def voc(old: str = "", new: str = "", listed: str | bytes | None = None) -> Make:
    return lambda root: folders.voc(root / "data", folders.VOC.replace(old, new) if old else folders.VOC, listed)


def xml(content: str | bytes | None) -> Make:
    return lambda root: folders.voc(root / "data", content)


def yolo(yaml: str = folders.YAML, label: str | bytes = folders.LABEL) -> Make:
    return lambda root: folders.yolo(root / "data", yaml, label)


def linked_out(root: Path) -> None:
    coco(lambda document: document["images"][0].update(file_name="link/../a.png"))(root)
    (root / "elsewhere" / "deep").mkdir(parents=True)
    (root / "data" / "train" / "link").symlink_to(root / "elsewhere" / "deep")


def flat(size: tuple[int, int]) -> Make:
    return lambda root: Image.new("RGB", size).save(root / "data" / "train" / "a.png")


def panoptic(size: tuple[int, int] | None = None, **values: Any) -> Make:
    """A picture with a segment, and a map of this size that is black; values go into its entry."""
    segment = {"id": 7, "category_id": 1, "bbox": [1, 2, 10, 10], "area": 100, "iscrowd": 0}
    document = {
        **folders.DOCUMENT,
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": [segment], **values}],
        "categories": [{"id": 1, "name": "ant", "isthing": 1}],
    }

    def make(root: Path) -> None:
        folders.image(root / "data" / "train" / "a.png")
        folders.written(root / "data" / "annotations" / "panoptic_train.json", json.dumps(document))
        if size is not None:
            maps = root / "data" / "annotations" / "panoptic_train"
            maps.mkdir()
            Image.new("RGB", size).save(maps / "a.png")

    return make


CHECK = ("data", "check", "data")
GUIDE = "detr guide data"
EVAL = ("eval", "data", "--weights", "shapes", "--split", "train")


KINDS: dict[str, Bad] = {
    "a folder that is not there": Bad(nothing, ("data", "check", "nowhere"), 3, "nowhere", GUIDE),
    "a web address as data": Bad(nothing, ("data", "check", "http://a.org/d.zip"), 3, "a.org"),
    "an empty folder": Bad(lambda root: (root / "data").mkdir(), CHECK, 3, "data", "--train-ann"),
    "a folder of pictures alone": Bad(
        lambda root: folders.image(root / "data" / "a.png"), CHECK, 3, "data", "--train-ann"
    ),
    "a file that is no annotations": Bad(at("notes.txt", "x"), ("data", "check", "notes.txt"), 3, "notes.txt"),
    "a split that there is not": Bad(
        coco(), ("eval", "data", "--weights", "shapes", "--split", "test"), 2, "--split test", "train"
    ),
    "JSON that ends too early": Bad(text('{"images": ['), CHECK, 3, "instances_train.json", GUIDE),
    "JSON that is a list": Bad(text("[1]"), CHECK, 3, "instances_train.json", GUIDE),
    "JSON of another encoding": Bad(
        text(folders.COCO.replace("ant", "caf\xe9").encode("latin-1")), CHECK, 3, "instances_train.json", GUIDE
    ),
    "JSON nested without end": Bad(text('{"x": ' + "[" * 100_000), CHECK, 3, "instances_train.json", GUIDE),
    "an empty annotation file": Bad(text(""), CHECK, 3, "instances_train.json", GUIDE),
    "annotations without images": Bad(text('{"images": []}'), CHECK, 3, "instances_train.json", GUIDE),
    "an image without an id": Bad(one("images", id=None), CHECK, 3, "instances_train.json", GUIDE),
    "an id of 20 digits": Bad(one("images", id=10**20), CHECK, 3, "instances_train.json", GUIDE),
    "a class name that is a list": Bad(one("categories", name=["ant"]), CHECK, 3, "instances_train.json", GUIDE),
    "a class name of 2 MB": Bad(one("categories", name="x" * 2_000_000), CHECK, 3, "instances_train.json", GUIDE),
    "a picture that is not there": Bad(one("images", file_name="b.png"), CHECK, 3, "b.png", GUIDE),
    "a picture of another size": Bad(one("images", width=51), CHECK, 3, "a.png", GUIDE),
    "a name that leaves its folder": Bad(one("images", file_name="../a.png"), CHECK, 3, "../a.png", GUIDE),
    "an absolute name": Bad(one("images", file_name="/etc/a.png"), CHECK, 3, "/etc/a.png", GUIDE),
    "a name on a drive": Bad(one("images", file_name="C:\\a.png"), CHECK, 3, "C:/a.png", GUIDE),
    "a name on a share": Bad(one("images", file_name="\\\\host\\a.png"), CHECK, 3, "//host/a.png", GUIDE),
    "a name behind a link": Bad(linked_out, CHECK, 3, "link/../a.png"),
    "a name with NUL": Bad(one("images", file_name="a\0.png"), CHECK, 3, "a\\x00.png", GUIDE),
    "a name of 5,000 letters": Bad(one("images", file_name="a" * 5000), CHECK, 3, "image 1", GUIDE),
    "a name that is a web address": Bad(
        one("images", file_name="http://a.org/a.png"), CHECK, 3, "http://a.org/a.png", GUIDE
    ),
    "two images of one id": Bad(coco(lambda d: d["images"].append(d["images"][0])), CHECK, 3, "image 1", GUIDE),
    "two classes of one id": Bad(
        coco(lambda d: d["categories"].append({"id": 1, "name": "b"})), CHECK, 3, "category 1", GUIDE
    ),
    "a box of three numbers": Bad(one("annotations", bbox=[1, 2, 3]), CHECK, 3, "annotation 0", "--skip-bad"),
    "a box of NaN": Bad(one("annotations", bbox=[1, 2, 3, float("nan")]), CHECK, 3, "annotation 0", "--skip-bad"),
    "a box beyond all measure": Bad(
        one("annotations", bbox=[1, 2, 1e300, 1e300]), CHECK, 3, "annotation 0", "--skip-bad"
    ),
    "an annotation of no image": Bad(one("annotations", image_id=9), CHECK, 3, "image 9", "--skip-bad"),
    "an annotation of no class": Bad(one("annotations", category_id=9), CHECK, 3, "category 9", "--skip-bad"),
    "corners in place of sizes": Bad(
        coco(lambda d: [a.update(bbox=[20 + i, 15, 45 + i, 39]) for i, a in enumerate(d["annotations"])]),
        CHECK,
        3,
        "annotation 0",
        GUIDE,
    ),
    "no boxes at all": Bad(coco(lambda d: d.update(annotations=[])), CHECK, 3, "no-boxes", GUIDE),
    "an annotation file that may not be read": Bad(
        both(
            coco(),
            lambda root: (root / "data/annotations/instances_train.json").unlink(),
            lambda root: (root / "data/annotations/instances_train.json").mkdir(),
        ),
        CHECK,
        3,
        "instances_train.json",
        GUIDE,
    ),
    "a folder of VOC without XML": Bad(xml(None), CHECK, 3, "Annotations", GUIDE),
    "XML that ends too early": Bad(xml("<annotation>"), CHECK, 3, "a.xml", GUIDE),
    "XML of an unknown encoding": Bad(xml('<?xml version="1.0" encoding="gb2312"?><a/>'), CHECK, 3, "a.xml", GUIDE),
    "XML that grows": Bad(
        xml('<!DOCTYPE a [<!ENTITY a "' + "l" * 100_000 + '">]><a>' + "&a;" * 1000 + "</a>"), CHECK, 3, "a.xml", GUIDE
    ),
    "XML that asks for a file": Bad(
        xml('<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]><a>&a;</a>'), CHECK, 3, "a.xml", GUIDE
    ),
    "a box of VOC that is none": Bad(voc("<xmin>3<", "<xmin>x<"), CHECK, 3, "a.xml, object 1", GUIDE),
    "a size of VOC of 5,000 digits": Bad(voc("<width>50<", f"<width>{'9' * 5000}<"), CHECK, 3, "a.png", GUIDE),
    "a list of VOC that leaves its folder": Bad(voc(listed="../../a"), CHECK, 3, "train.txt", GUIDE),
    "a list of VOC with NUL": Bad(voc(listed=b"a\0b"), CHECK, 3, "a\\x00b", GUIDE),
    "a list of VOC of what there is not": Bad(voc(listed="b"), CHECK, 3, "b.xml", GUIDE),
    "YAML that ends too early": Bad(yolo("names: ["), CHECK, 3, "data.yaml"),
    "YAML without names": Bad(yolo("train: images\n"), CHECK, 3, "data.yaml"),
    "YAML without splits": Bad(yolo("names: [ant]\n"), CHECK, 3, "data.yaml"),
    "YAML of a folder that is not there": Bad(yolo("train: nowhere\nnames: [ant]\n"), CHECK, 3, "nowhere", GUIDE),
    "YAML of three million classes": Bad(yolo("train: images\nnc: 3000000\n"), CHECK, 3, "data.yaml"),
    "YAML of a class below 0": Bad(yolo("train: images\nnames: {-1: ant}\n"), CHECK, 3, "data.yaml"),
    "YAML of 1,200 brackets": Bad(yolo("names: " + "[" * 1200), CHECK, 3, "data.yaml"),
    "YAML of references": Bad(yolo("a: &a [x, x]\nb: &b [*a, *a]\ntrain: *b\nnames: [ant]\n"), CHECK, 3, "data.yaml"),
    "YAML of two megabytes": Bad(yolo(f"train: images\nnames: [ant]\nx: {'x' * 2_000_000}\n"), CHECK, 3, "data.yaml"),
    "YAML that is a word": Bad(yolo("ant"), CHECK, 3, "data.yaml"),
    "a label that is no number": Bad(yolo(label="x .5 .5 .2 .2"), CHECK, 3, "a.txt, line 1", GUIDE),
    "a label in pixels": Bad(yolo(label="0 20 20 10 10"), CHECK, 3, "a.txt, line 1", GUIDE),
    "a label of a class that there is not": Bad(yolo(label="7 .5 .5 .2 .2"), CHECK, 3, "category 7", GUIDE),
    "a label of other bytes": Bad(yolo(label=b"\xff\xfe\x00"), CHECK, 3, "a.txt", GUIDE),
    "a list of pictures that is none": Bad(
        both(yolo("train: list.txt\nnames: [ant]\n"), at("data/list.txt", b"\xff\xfe\x00")), CHECK, 3, "list.txt", GUIDE
    ),
    "a list of pictures elsewhere": Bad(
        both(yolo("train: list.txt\nnames: [ant]\n"), at("data/list.txt", "../../b.png\n")), CHECK, 3, "b.png", GUIDE
    ),
    "a folder without pictures": Bad(
        both(yolo("train: none\nnames: [ant]\n"), lambda root: (root / "data/none").mkdir()), CHECK, 3, "none", GUIDE
    ),
    "half of the explicit places": Bad(
        coco(), ("data", "check", "--train-ann", "data/annotations/instances_train.json"), 2, "--train-ann"
    ),
    "a polygon of a number and a half": Bad(
        one("annotations", segmentation=[[1, 2, 3, 4, 5, 6, 7]]), CHECK, 3, "annotation 0", "--skip-bad"
    ),
    "a mask of another size": Bad(
        one("annotations", segmentation={"size": [9, 9], "counts": [81]}), CHECK, 3, "9 x 9", "--skip-bad"
    ),
    "runs without end": Bad(
        one("annotations", segmentation={"size": [40, 50], "counts": "o" * 100_000}),
        CHECK,
        3,
        "annotation 0",
        "--skip-bad",
    ),
    "panoptic data without its maps": Bad(panoptic(), CHECK, 3, "panoptic_train/a.png", GUIDE),
    "a panoptic map of another size": Bad(panoptic((9, 9)), CHECK, 3, "a.png", GUIDE),
    "a panoptic map that leaves its folder": Bad(
        panoptic((50, 40), file_name="../../train/a.png"), CHECK, 3, "../../train/a.png", GUIDE
    ),
    "segments that no map shows": Bad(panoptic((50, 40)), CHECK, 3, "segment 7 of image 1", "--skip-bad"),
    "segments that are numbers": Bad(panoptic((50, 40), segments_info=[7]), CHECK, 3, "panoptic_train.json", GUIDE),
    "training masks on broken ones": Bad(
        one("annotations", segmentation={"size": [9, 9], "counts": [81]}),
        ("train", "data", "--model", "dino-tiny-masks", "--weights", "none", "--device", "cpu"),
        3,
        "9 x 9",
        "--skip-bad",
    ),
    "training on broken data": Bad(one("images", width=51), TRAIN, 3, "a.png", GUIDE),
    "evaluating broken data": Bad(one("images", width=51), EVAL, 3, "a.png", "--skip-bad"),
}

GOOD = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}


def results(content: Any) -> Make:
    return both(coco(), at("r.json", content if isinstance(content, str) else json.dumps(content)))


def thresholds(content: str) -> Bad:
    return Bad(
        both(noise("a.png"), at("t.json", content)),
        ("predict", "a.png", "--weights", "shapes", "--threshold", "t.json"),
        3,
        "t.json",
        "detr eval",
    )


KINDS |= {
    "results that are not there": Bad(coco(), SCORE, 2, "--predictions r.json"),
    "results that are no JSON": Bad(results("[{"), SCORE, 3, "r.json", "detr eval"),
    "results nested without end": Bad(results("[" * 100_000), SCORE, 3, "r.json", "COCO results"),
    "results that are no list": Bad(results({"a": 1}), SCORE, 3, "r.json"),
    "a result that lacks its score": Bad(results([{**GOOD, "score": None}]), SCORE, 3, "entry 0"),
    "a result of no image": Bad(results([{**GOOD, "image_id": 9}]), SCORE, 3, "entry 0"),
    "a result of no class": Bad(results([{**GOOD, "category_id": 9}]), SCORE, 3, "entry 0"),
    "a result of another file": Bad(results([{**GOOD, "file_name": "b.png"}]), SCORE, 3, "b.png", "ids_from"),
    "a result whose file is a number": Bad(results([{**GOOD, "file_name": 5}]), SCORE, 3, "entry 0"),
    "a result whose box is a word": Bad(results([{**GOOD, "bbox": "box"}]), SCORE, 3, "entry 0"),
    "thresholds that are no JSON": thresholds("{"),
    "thresholds of another schema": thresholds('{"schema": "x"}'),
    "ids that are no annotations": Bad(
        both(noise("a.png"), at("ann.json", "[]")),
        ("predict", "a.png", "--weights", "shapes", "--format", "coco", "--ids-from", "ann.json"),
        3,
        "--ids-from ann.json",
    ),
}
