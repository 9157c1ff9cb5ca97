"""Bad data folders, annotation files and results."""

import json
from pathlib import Path
from typing import Any

import folders
from bad import PREDICT, SCORE, TRAIN, Bad, Make, at, both, coco, noise, nothing
from PIL import Image


def text(content: str | bytes) -> Make:
    return lambda root: folders.coco(root / "data", content)


def first(table: str, **values: Any) -> Make:
    """A dataset with other values in the first entry of a table."""
    return coco(lambda document: document[table][0].update(values))


def voc(text: str | bytes | None = folders.VOC, listed: str | bytes | None = None) -> Make:
    return lambda root: folders.voc(root / "data", text, listed)


def yolo(yaml: str = folders.YAML, label: str | bytes = folders.LABEL) -> Make:
    return lambda root: folders.yolo(root / "data", yaml, label)


def linked_out(root: Path) -> None:
    coco(lambda document: document["images"][0].update(file_name="link/../a.png"))(root)
    (root / "elsewhere" / "deep").mkdir(parents=True)
    (root / "data" / "train" / "link").symlink_to(root / "elsewhere" / "deep")


def panoptic(size: tuple[int, int] | None = None, **values: Any) -> Make:
    """A image with a segment, and a map of this size that is black; values go into its entry."""
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


GUIDE = "detr guide data"
EVAL = ("eval", "data", "--weights", "shapes", "--split", "train")


def check(make: Make, item: str, remedy: str = "detr guide data") -> Bad:
    """A dataset with an error, which `detr data check` reports."""
    return Bad(make, ("data", "check", "data"), 3, item, remedy)


BROKEN_MASK = first("annotations", segmentation={"size": [9, 9], "counts": [81]})
TRAIN_MASKS = ("train", "data", "--model", "dino-tiny-masks", "--weights", "none", "--device", "cpu")
KINDS: dict[str, Bad] = {
    "a missing folder": Bad(nothing, ("data", "check", "nowhere"), 3, "nowhere", GUIDE),
    "a web address as data": Bad(nothing, ("data", "check", "http://a.org/d.zip"), 3, "a.org"),
    "an empty folder": check(lambda root: (root / "data").mkdir(), "data", "--train-ann"),
    "images without annotations": check(lambda root: folders.image(root / "data" / "a.png"), "data", "--train-ann"),
    "a file without annotations": Bad(at("notes.txt", "x"), ("data", "check", "notes.txt"), 3, "notes.txt"),
    "a missing split": Bad(coco(), (*EVAL, "--split", "test"), 2, "--split test", "train"),
    "JSON that ends too early": check(text('{"images": ['), "instances_train.json"),
    "JSON that is a list": check(text("[1]"), "instances_train.json"),
    "JSON of another encoding": check(
        text(folders.COCO.replace("ant", "caf\xe9").encode("latin-1")), "instances_train.json"
    ),
    "JSON nested without end": check(text('{"x": ' + "[" * 100_000), "instances_train.json"),
    "an empty annotation file": check(text(""), "instances_train.json"),
    "annotations without images": check(text('{"images": []}'), "instances_train.json"),
    "an image without an id": check(first("images", id=None), "instances_train.json"),
    "an id of 20 digits": check(first("images", id=10**20), "instances_train.json"),
    "a class name that is a list": check(first("categories", name=["ant"]), "instances_train.json"),
    "a class name of 2 MB": check(first("categories", name="x" * 2_000_000), "instances_train.json"),
    "a missing image": check(first("images", file_name="b.png"), "b.png"),
    "a image of another size": check(first("images", width=51), "a.png"),
    "a name that leaves its folder": check(first("images", file_name="../a.png"), "../a.png"),
    "an absolute name": check(first("images", file_name="/etc/a.png"), "/etc/a.png"),
    "a name on a drive": check(first("images", file_name="C:\\a.png"), "C:/a.png"),
    "a name on a share": check(first("images", file_name="\\\\host\\a.png"), "//host/a.png"),
    "a name behind a link": check(linked_out, "link/../a.png", ""),
    "a name with NUL": check(first("images", file_name="a\0.png"), "a\\x00.png"),
    "a name of 5,000 letters": check(first("images", file_name="a" * 5000), "image 1"),
    "a name that is a web address": check(first("images", file_name="http://a.org/a.png"), "http://a.org/a.png"),
    "two images of the same id": check(coco(lambda d: d["images"].append(d["images"][0])), "image 1"),
    "two classes of one id": check(coco(lambda d: d["categories"].append({"id": 1, "name": "b"})), "category 1"),
    "a box of three numbers": check(first("annotations", bbox=[1, 2, 3]), "annotation 0", "--skip-bad"),
    "a box of NaN": check(first("annotations", bbox=[1, 2, 3, float("nan")]), "annotation 0", "--skip-bad"),
    "a box of 1e300 pixels": check(first("annotations", bbox=[1, 2, 1e300, 1e300]), "annotation 0", "--skip-bad"),
    "an annotation of an unknown image": check(first("annotations", image_id=9), "image 9", "--skip-bad"),
    "an annotation of an unknown class": check(first("annotations", category_id=9), "category 9", "--skip-bad"),
    "corners instead of sizes": check(
        coco(lambda d: [a.update(bbox=[20 + i, 15, 45 + i, 39]) for i, a in enumerate(d["annotations"])]),
        "annotation 0",
    ),
    "no boxes at all": check(coco(lambda d: d.update(annotations=[])), "no-boxes"),
    "an annotation file that is a folder": check(
        lambda root: (root / "data/annotations/instances_train.json").mkdir(parents=True), "instances_train.json"
    ),
    "a folder of VOC without XML": check(voc(None), "Annotations"),
    "XML that ends too early": check(voc("<annotation>"), "a.xml"),
    "XML of an unknown encoding": check(voc('<?xml version="1.0" encoding="gb2312"?><a/>'), "a.xml"),
    "XML that expands": check(
        voc('<!DOCTYPE a [<!ENTITY a "' + "l" * 100_000 + '">]><a>' + "&a;" * 1000 + "</a>"), "a.xml"
    ),
    "XML with an external entity": check(
        voc('<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]><a>&a;</a>'), "a.xml"
    ),
    "a box of VOC that is invalid": check(voc(folders.VOC.replace("<xmin>3<", "<xmin>x<")), "a.xml, object 1"),
    "a size of VOC of 5,000 digits": check(voc(folders.VOC.replace("<width>50<", f"<width>{'9' * 5000}<")), "a.png"),
    "a list of VOC that leaves its folder": check(voc(listed="../../a"), "train.txt"),
    "a list of VOC with NUL": check(voc(listed=b"a\0b"), "a\\x00b"),
    "a list of VOC of a missing file": check(voc(listed="b"), "b.xml"),
    "YAML that ends too early": check(yolo("names: ["), "data.yaml", ""),
    "YAML without names": check(yolo("train: images\n"), "data.yaml", ""),
    "YAML without splits": check(yolo("names: [ant]\n"), "data.yaml", ""),
    "YAML of a missing folder": check(yolo("train: nowhere\nnames: [ant]\n"), "nowhere"),
    "YAML of three million classes": check(yolo("train: images\nnc: 3000000\n"), "data.yaml", ""),
    "YAML of a class below 0": check(yolo("train: images\nnames: {-1: ant}\n"), "data.yaml", ""),
    "YAML of 1,200 brackets": check(yolo("names: " + "[" * 1200), "data.yaml", ""),
    "YAML of references": check(yolo("a: &a [x, x]\nb: &b [*a, *a]\ntrain: *b\nnames: [ant]\n"), "data.yaml", ""),
    "YAML of two megabytes": check(yolo(f"train: images\nnames: [ant]\nx: {'x' * 2_000_000}\n"), "data.yaml", ""),
    "YAML that is a word": check(yolo("ant"), "data.yaml", ""),
    "a label that is not a number": check(yolo(label="x .5 .5 .2 .2"), "a.txt, line 1"),
    "a label in pixels": check(yolo(label="0 20 20 10 10"), "a.txt, line 1"),
    "a label of a missing class": check(yolo(label="7 .5 .5 .2 .2"), "category 7"),
    "a label of other bytes": check(yolo(label=b"\xff\xfe\x00"), "a.txt"),
    "a list of images in another encoding": check(
        both(yolo("train: list.txt\nnames: [ant]\n"), at("data/list.txt", b"\xff\xfe\x00")), "list.txt"
    ),
    "a list of images elsewhere": check(
        both(yolo("train: list.txt\nnames: [ant]\n"), at("data/list.txt", "../../b.png\n")), "b.png"
    ),
    "a folder without images": check(
        both(yolo("train: none\nnames: [ant]\n"), lambda root: (root / "data/none").mkdir()), "none"
    ),
    "half of the explicit paths": Bad(
        coco(), ("data", "check", "--train-ann", "data/annotations/instances_train.json"), 2, "--train-ann"
    ),
    "a polygon of a number and a half": check(
        first("annotations", segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "annotation 0", "--skip-bad"
    ),
    "a mask of another size": check(BROKEN_MASK, "9 x 9", "--skip-bad"),
    "runs beyond the mask": check(
        first("annotations", segmentation={"size": [40, 50], "counts": "o" * 100_000}), "annotation 0", "--skip-bad"
    ),
    "panoptic data without its maps": check(panoptic(), "panoptic_train/a.png"),
    "a panoptic map of another size": check(panoptic((9, 9)), "a.png"),
    "a panoptic map that leaves its folder": check(
        panoptic((50, 40), file_name="../../train/a.png"), "../../train/a.png"
    ),
    "segments that no map shows": check(panoptic((50, 40)), "segment 7 of image 1", "--skip-bad"),
    "segments that are numbers": check(panoptic((50, 40), segments_info=[7]), "panoptic_train.json"),
    "training with broken masks": Bad(BROKEN_MASK, TRAIN_MASKS, 3, "9 x 9", "--skip-bad"),
    "training on broken data": Bad(first("images", width=51), TRAIN, 3, "a.png", GUIDE),
    "evaluating broken data": Bad(first("images", width=51), EVAL, 3, "a.png", "--skip-bad"),
}

GOOD = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}


def results(content: Any) -> Make:
    return both(coco(), at("r.json", content if isinstance(content, str) else json.dumps(content)))


def thresholds(content: str) -> Bad:
    make = both(noise("a.png"), at("t.json", content))
    return Bad(make, (*PREDICT, "--threshold", "t.json"), 3, "t.json", "detr eval")


KINDS |= {
    "results that are not there": Bad(coco(), SCORE, 2, "--predictions r.json"),
    "results that are not JSON": Bad(results("[{"), SCORE, 3, "r.json", "detr eval"),
    "results nested without end": Bad(results("[" * 100_000), SCORE, 3, "r.json", "COCO results"),
    "results that are not list": Bad(results({"a": 1}), SCORE, 3, "r.json"),
    "a result that lacks its score": Bad(results([{**GOOD, "score": None}]), SCORE, 3, "entry 0"),
    "a result of an unknown image": Bad(results([{**GOOD, "image_id": 9}]), SCORE, 3, "entry 0"),
    "a result of an unknown class": Bad(results([{**GOOD, "category_id": 9}]), SCORE, 3, "entry 0"),
    "a result of another file": Bad(results([{**GOOD, "file_name": "b.png"}]), SCORE, 3, "b.png", "ids_from"),
    "a result whose file is a number": Bad(results([{**GOOD, "file_name": 5}]), SCORE, 3, "entry 0"),
    "a result whose box is a word": Bad(results([{**GOOD, "bbox": "box"}]), SCORE, 3, "entry 0"),
    "thresholds that are not JSON": thresholds("{"),
    "thresholds of another schema": thresholds('{"schema": "x"}'),
    "ids that are not annotations": Bad(
        at("ann.json", "[]"), (*PREDICT, "--format", "coco", "--ids-from", "ann.json"), 3, "--ids-from ann.json"
    ),
}
