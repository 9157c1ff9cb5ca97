"""`detr eval` from the outside: a model or a results file, beside pycocotools."""

import contextlib
import io
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from golden_rules import tensor_by_name
from here import Detr, torchrun
from judge import METRICS, class_aps, coco_folder, judged, twelve
from PIL import Image
from pycocotools.coco import COCO
from small import TINY, small_weights, smooth_noise

import detrcli
from detrcli.checkpoints.formats import native
from detrcli.structures import Detections

Document = dict[str, Any]
SIZES = [(96, 64), (60, 100), (96, 64), (70, 70), (96, 64)]

# With these the queries differ in place and class.
LIVELY = {"cross_attention.out_proj": 20.0, "multihead_attn.out_proj": 20.0, "decoder": 4.0, "encoder": 0.5}
LIVELY |= {"input_proj": 10.0, "projection": 10.0, "box": 1.5, "class_": 6.0}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of the classes cat, dog and Żubr."""
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    small = small_weights(TINY)
    tensors = {name: tensor_by_name(name, list(value.shape), LIVELY) for name, value in small.tensors.items()}
    native.save(replace(small, tensors=tensors), path)
    return path


PICTURES = [smooth_noise(i, size) for i, size in enumerate(SIZES)]


@cache
def found_by(weights: Path) -> list[Detections]:
    return detrcli.load(weights, "cpu").predict(PICTURES, threshold=0)


def as_coco(image_id: int, found: Detections, ids: dict[str, int]) -> list[Document]:
    """Results under the data's ids, of the classes that it has."""
    return [
        {"image_id": image_id, "category_id": ids[name], "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score}
        for (x0, y0, x1, y1), score, name in zip(
            found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
        )
        if name in ids
    ]


def near(results: list[Document], share: float, spread: float) -> list[Document]:
    """Annotations that some of these results match: their boxes, moved, and crowds."""
    rng = np.random.default_rng(1)
    chosen = [result for result in results if rng.random() < share]
    boxes = [
        (np.array(r["bbox"]) + rng.normal(0, spread, 4) * np.tile(r["bbox"][2:], 2)).round(2).tolist() for r in chosen
    ]
    return [
        {"id": i, "image_id": r["image_id"], "category_id": r["category_id"], "bbox": box,
         "area": 0.8 * box[2] * box[3], "iscrowd": int(i % 9 == 8)}
        for i, (r, box) in enumerate(zip(chosen, boxes, strict=True))
    ]  # fmt: skip


class Data:
    """A COCO folder of five images in three sizes; the model's classes have other ids in it."""

    ids: ClassVar = {"dog": 70, "Żubr": 5}

    def __init__(self, root: Path, weights: Path) -> None:
        self.root = root
        self.files = [root / "val" / f"{i}.png" for i in range(len(SIZES))]
        self.results: list[Document] = []
        (root / "val").mkdir(parents=True)
        for i, (path, picture, found) in enumerate(zip(self.files, PICTURES, found_by(weights), strict=True)):
            picture.save(path)
            self.results += as_coco(10 * i + 7, found, self.ids)
        self.document: Document = {
            "images": [
                {"id": 10 * i + 7, "file_name": f"{i}.png", "width": w, "height": h} for i, (w, h) in enumerate(SIZES)
            ],
            "annotations": near(self.results, 0.6, 0.06),
            "categories": [{"id": 70, "name": "Dog"}, {"id": 5, "name": " żubr"}, {"id": 9, "name": "tree"}],
        }
        self.write()

    def write(self) -> None:
        coco_folder(self.root, self.document)

    def of(self, images: set[int]) -> tuple[Document, list[Document]]:
        """Truth and results of some images alone."""
        part = {key: [e for e in self.document[key] if e.get("image_id", e["id"]) in images] for key in
                ("images", "annotations")}  # fmt: skip
        return {**self.document, **part}, [r for r in self.results if r["image_id"] in images]


@pytest.fixture
def data(tmp_path: Path, weights: Path) -> Data:
    return Data(tmp_path / "data", weights)


@pytest.fixture
def score(detr: Detr, weights: Path, data: Data) -> Detr:
    """Evaluate the model on the data."""
    return lambda *args: detr("eval", "data", "--weights", weights, "--device", "cpu", *args)


def close(metrics: dict[str, float], truth: Document, results: list[Document]) -> None:
    assert metrics == pytest.approx(twelve(truth, results), rel=0, abs=1e-6)


# A model


def test_metrics_equal_pycocotools(score: Detr, weights: Path, data: Data) -> None:
    """The complete document; classes are matched by name, and unmatched classes are reported."""
    shown = score("--json")
    document = shown.json
    assert list(document)[:4] == ["schema", "images", "metrics", "per_class"]
    assert document["schema"] == "detr.eval/1"
    assert document["images"] == 5
    assert list(document["metrics"]) == list(METRICS)
    close(document["metrics"], data.document, data.results)
    assert 0.2 < document["metrics"]["AP"] < 0.9
    aps = class_aps(judged(data.document, data.results))
    targets = [a["category_id"] for a in data.document["annotations"] if not a["iscrowd"]]
    assert document["per_class"] == [
        {"category_id": i, "label": label, "AP": pytest.approx(aps[i][0], abs=1e-6),
         "AP50": pytest.approx(aps[i][1], abs=1e-6), "targets": targets.count(i)}
        for i, label in ((5, " żubr"), (9, "tree"), (70, "Dog"))
    ]  # fmt: skip
    assert [document[key] for key in ("paired_by", "only_weights", "only_data")] == ["name", ["cat"], ["tree"]]
    assert "weights: cat\n" in shown.err
    assert "data: tree\n" in shown.err
    assert shown.code == 0


def test_an_annotation_file_is_data(detr: Detr, data: Data, tmp_path: Path) -> None:
    """A single file is evaluated as a whole; beside annotations of train it is val."""
    (tmp_path / "r.json").write_text(json.dumps(data.results))
    val = data.root / "annotations" / "instances_val.json"
    call = ["--predictions", "r.json", "--json"]
    whole = detr("eval", "data", *call).json
    for name in ("instances_val.json", "instances_train.json", "mine.json"):
        val.rename(val.with_name(name))
        shown = detr("eval", val.with_name(name), *call)
        assert (shown.json["images"], shown.json["metrics"]) == (5, whole["metrics"]), shown.err
        assert name in shown.err
        val.with_name(name).rename(val)
    train = val.with_name("instances_train.json")
    train.write_text(json.dumps({**data.document, "images": data.document["images"][:1]}))
    shown = detr("eval", val, *call)
    assert shown.json["metrics"] == whole["metrics"]
    assert str(val) not in shown.err
    shown = detr("eval", train, *call)
    assert shown.json["images"] == 5
    assert str(train) in shown.err


def test_table(score: Detr, weights: Path, data: Data) -> None:
    shown = score()
    lines = shown.out.splitlines()
    objects = sum(not a["iscrowd"] for a in data.document["annotations"])
    assert lines[0] == f"{weights} on val: 5 images, {objects} objects"
    expected = twelve(data.document, data.results)
    assert [(row[0], row[1]) for row in (line.split() for line in lines[3:15])] == [
        (name, "-1" if value == -1 else f"{value:.3f}") for name, value in expected.items()
    ]
    classes = [line.split()[:3] for line in lines[17:20]]
    assert [name for name, *_ in classes] == ["żubr", "Dog", "tree"]
    assert float(classes[0][2]) >= float(classes[1][2])
    assert classes[2][2] == "-1"
    assert "reading" in lines[21]
    count = sum(parameter.numel() for parameter in small_weights(TINY).model().parameters())
    assert lines[22] == f"The model has {count:,} parameters."
    assert "\x1b" not in shown.out + shown.err


def test_saved_detections_give_the_same_numbers(
    detr: Detr, score: Detr, weights: Path, data: Data, tmp_path: Path
) -> None:
    """In pycocotools and in `eval --predictions`. Existing files and inputs are not overwritten."""
    call = ["--json", "--save"]
    metrics = score(*call, "new/r.json").json["metrics"]
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = COCO(data.root / "annotations" / "instances_val.json").loadRes(str(tmp_path / "new" / "r.json"))
    assert len(loaded.anns) == len(data.results)
    saved = json.loads((tmp_path / "new" / "r.json").read_text())
    assert twelve(data.document, saved) == pytest.approx(metrics, rel=0, abs=1e-12)
    assert detr("eval", "data", "--predictions", "new/r.json", "--json").json["metrics"] == metrics
    assert score(*call, "new/r.json").code == 2
    assert score(*call, "new/r.json", "--overwrite").code == 0
    before = weights.read_bytes()
    assert score(*call, weights, "--overwrite").code == 2
    assert weights.read_bytes() == before


def test_batch_size_does_not_matter(score: Detr, data: Data, tmp_path: Path) -> None:
    call = ["--json", "--batch-size"]
    shown = [score(*call, n, "--save", f"{n}.json").json["metrics"] for n in (1, 2, 8)]
    assert shown[1] == shown[2] == pytest.approx(shown[0], abs=1e-6)
    alone, together = (json.loads((tmp_path / f"{n}.json").read_text()) for n in (1, 8))
    for a, b in zip(alone, together, strict=True):
        assert (a["image_id"], a["category_id"]) == (b["image_id"], b["category_id"])
        assert a["bbox"] == pytest.approx(b["bbox"], abs=1e-3)


def test_tiles(score: Detr, data: Data, weights: Path) -> None:
    """The metrics of the merged detections of the image and its tiles."""
    shown = score("--json", "--tiles", "50x50", "--nms", 0.7, "--batch-size", 4).json
    tiled = detrcli.load(weights, "cpu", tiles="50x50", nms=0.7)
    results: list[Document] = []
    for i, merged in enumerate(tiled.predict(PICTURES, threshold=0)):
        results += as_coco(10 * i + 7, merged, data.ids)
    assert len(results) > len(data.results)
    close(shown["metrics"], data.document, results)
    assert (shown["tiles"], shown["overlap"], shown["nms"]) == ("50x50", 0.2, 0.7)


def test_a_threshold_lowers_ap_with_a_note(score: Detr, data: Data) -> None:
    assert "0.95" in score("--threshold", 0.95).out.splitlines()[1]
    shown = score("--threshold", 0.95, "--json").json
    some = [result for result in data.results if result["score"] >= 0.95]
    close(shown["metrics"], data.document, some)
    assert shown["threshold"] == 0.95
    assert shown["metrics"]["AP"] < twelve(data.document, data.results)["AP"]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_truncated_image(score: Detr, data: Data, batch_size: int) -> None:
    """The header is valid, so the error occurs in the evaluation. --skip-bad skips the image."""
    PICTURES[2].save(data.root / "val" / "2.jpg", quality=100)
    data.document["images"][2]["file_name"] = "2.jpg"
    data.write()
    broken = data.root / "val" / "2.jpg"
    broken.write_bytes(broken.read_bytes()[:2000])
    call = ["--json", "--batch-size", batch_size]
    score(*call).fails(3, "2.jpg: ", "1 of 5", "--skip-bad")
    skipping = score(*call, "--skip-bad").ok()
    assert skipping.json["images"] == 4
    assert "left out" in skipping.err
    close(skipping.json["metrics"], *data.of({7, 17, 37, 47}))


def test_no_readable_image(score: Detr, data: Data) -> None:
    for path in data.files:
        path.write_bytes(path.read_bytes()[:1500])
    score("--skip-bad").fails(3, "5 of 5")
    for path in data.files:
        path.unlink()
    assert score("--skip-bad").code == 3


def test_images_annotated_without_exif_orientation(score: Detr, data: Data) -> None:
    """Images are evaluated as stored, with the numbers of the same images without EXIF."""
    expected = score("--json").json["metrics"]
    exif = Image.Exif()
    exif[0x0112] = 6
    for path, picture in zip(data.files, PICTURES, strict=True):
        if picture.width != picture.height:  # of a square nobody could tell
            picture.save(path, exif=exif)
    for options in ([], ["--exif", "ignore"], ["--batch-size", 4]):
        shown = score("--json", *options)
        assert shown.json["metrics"] == pytest.approx(expected, abs=1e-6)
        assert ("unturned" in shown.err) == ("ignore" not in options)
    score("--exif", "apply").fails(3, "size-mismatch")


def test_classes_by_id_and_without_classes(score: Detr, data: Data) -> None:
    for category, name in zip(data.document["categories"], "abc", strict=True):
        category["name"] = name
    data.document["categories"][0]["id"] = 1
    for annotation in data.document["annotations"]:
        annotation["category_id"] = {70: 1}.get(annotation["category_id"], annotation["category_id"])
    data.write()
    refused = score()
    assert (refused.code, "--match-classes-by-id" in refused.err) == (3, True)
    shown = score("--json", "--match-classes-by-id")
    assert "dog = a" in shown.err
    assert "cat, Żubr\n" in shown.err
    assert shown.json["paired_by"] == "id"
    found = [{**r, "category_id": 1} for r in data.results if r["category_id"] == 70]
    close(shown.json["metrics"], data.document, found)
    data.document["categories"][0]["id"] = 2
    data.document["annotations"] = []
    data.write()
    assert score("--match-classes-by-id").code == 3


def test_subset_of_classes_and_images(score: Detr, weights: Path, data: Data) -> None:
    """A class that the weights do not have is not matched by its id."""
    data.document["categories"][2]["id"] = 1
    data.write()
    tree = score("--json", "--classes", "tree").json
    assert tree["paired_by"] == "name"
    assert [item["label"] for item in tree["per_class"]] == ["tree"]
    dogs = score("--json", "--classes", "dog, TREE", "--limit", 3).json
    truth, results = data.of({7, 17, 27})
    truth["categories"] = [c for c in truth["categories"] if c["id"] != 5]
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] != 5]
    close(dogs["metrics"], truth, [r for r in results if r["category_id"] != 5])
    assert dogs["images"] == 3
    score("--json", "--classes", "dog,wolf").fails(2, "wolf")


# A results file


def of_results(detr: Detr, data: Path, results: list[Document], *options: object) -> Any:
    (data / "results.json").write_text(json.dumps(results))
    shown = detr("eval", data, "--predictions", data / "results.json", "--json", *options).ok()
    return shown.json


def test_results_require_no_images(detr: Detr, data: Data, tmp_path: Path) -> None:
    root = coco_folder(tmp_path / "bare", data.document)
    shown = of_results(detr, root, data.results)
    assert shown["metrics"] == pytest.approx(twelve(data.document, data.results), rel=0, abs=1e-9)
    assert shown["predictions"] == str(root / "results.json")
    named = ["--val-ann", "bare/annotations/instances_val.json", "--val-images", "nowhere"]
    again = detr("eval", *named, "--predictions", "bare/results.json", "--json")
    assert again.json["metrics"] == shown["metrics"]
    table = detr("eval", "bare", "--predictions", "bare/results.json")
    assert table.out.startswith(f"{Path('bare', 'results.json')} on val: 5 images")
    assert "parameters" not in table.out


def test_options_that_select_objects(detr: Detr, data: Data) -> None:
    limited = of_results(detr, data.root, data.results, "--limit", 2)
    assert limited["metrics"] == pytest.approx(twelve(*data.of({7, 17})), rel=0, abs=1e-9)
    item = of_results(detr, data.root, data.results, "--max-detections", 1)
    recall = judged(data.document, data.results, 1).eval["recall"][:, :, 0, 2]
    assert item["metrics"]["AR100"] == pytest.approx(recall[recall > -1].mean(), rel=0, abs=1e-9)
    rows = detr("eval", "data", "--predictions", "data/results.json", "--max-detections", 4).out.splitlines()
    assert [line.split()[-1] for line in rows[3:15]] == ["4"] * 6 + ["1"] + ["4"] * 5
    some = of_results(detr, data.root, data.results, "--threshold", 0.8)
    kept = [result for result in data.results if result["score"] >= 0.8]
    assert some["metrics"] == pytest.approx(twelve(data.document, kept), rel=0, abs=1e-9)


def test_negative_scores_count_as_written(detr: Detr, data: Data) -> None:
    perfect = [
        {key: a[key] for key in ("image_id", "category_id", "bbox")} | {"score": -0.3 - i}
        for i, a in enumerate(data.document["annotations"])
        if not a["iscrowd"]
    ]
    expected = twelve(data.document, perfect)
    assert expected["AP"] == 1
    shown = of_results(detr, data.root, perfect)
    assert shown["metrics"] == pytest.approx(expected, rel=0, abs=1e-9)
    assert shown["threshold"] is None
    table = detr("eval", "data", "--predictions", "data/results.json")
    assert (table.code, table.out.splitlines()[3].split()[:2]) == (0, ["AP", "1.000"])
    assert of_results(detr, data.root, perfect, "--threshold", 0)["metrics"]["AP"] == 0


def test_annotations_that_crash_pycocotools(detr: Detr, data: Data) -> None:
    """Annotation id 0 twice, and polygons of NaN and infinity."""
    expected = twelve(data.document, data.results)
    for annotation in data.document["annotations"][:2]:
        annotation["id"] = 0
        annotation["segmentation"] = [[float("nan"), float("inf"), -1, 1e400, 2, 3]]
    data.write()
    shown = of_results(detr, data.root, data.results)
    assert shown["metrics"] == pytest.approx(expected, rel=0, abs=1e-9)


def test_yolo_areas_are_those_of_the_boxes(detr: Detr, data: Data, tmp_path: Path) -> None:
    root = tmp_path / "yolo"
    ids = {70: 0, 5: 1}
    for i, ((w, h), file) in enumerate(zip(SIZES, data.files, strict=True)):
        picture, label = root / "images" / "val" / file.name, root / "labels" / "val" / f"{file.stem}.txt"
        for path in (picture, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(file.read_bytes())
        truth = [a for a in data.document["annotations"] if a["image_id"] == 10 * i + 7]
        rows = [(ids[a["category_id"]], *a["bbox"]) for a in truth]
        label.write_text(
            "".join(f"{c} {(x + a / 2) / w} {(y + b / 2) / h} {a / w} {b / h}\n" for c, x, y, a, b in rows)
        )
    (root / "data.yaml").write_text("val: images/val\nnames: [dog, bison]\n")
    document = {
        "images": [{"id": i} for i in range(1, 6)],
        "annotations": [
            {"id": a["id"], "image_id": 1 + a["image_id"] // 10, "category_id": ids[a["category_id"]],
             "bbox": a["bbox"], "area": a["bbox"][2] * a["bbox"][3], "iscrowd": 0}
            for a in data.document["annotations"]
        ],
        "categories": [{"id": 0, "name": "dog"}, {"id": 1, "name": "bison"}],
    }  # fmt: skip
    results = [{**r, "image_id": 1 + r["image_id"] // 10, "category_id": ids[r["category_id"]]} for r in data.results]
    shown = of_results(detr, root, results)
    assert shown["metrics"] == pytest.approx(twelve(document, results), rel=0, abs=1e-9)


def test_duplicate_class_names_are_distinct_classes(detr: Detr, data: Data) -> None:
    data.document["categories"][1]["name"] = "Dog"
    data.write()
    shown = of_results(detr, data.root, data.results)
    assert [(item["label"], item["category_id"]) for item in shown["per_class"]] == [
        ("Dog", 5), ("tree", 9), ("Dog", 70),
    ]  # fmt: skip
    assert shown["metrics"] == pytest.approx(twelve(data.document, data.results), rel=0, abs=1e-9)


@pytest.mark.parametrize(
    ("args", "code", "named"),
    [
        ([], 2, "DATA"),
        (["data/val/0.png"], 3, "data/val/0.png"),
        (["--val-ann", "a.json", "--val-images", "data/val/0.png"], 2, "--val-images"),
        (["data", "--predictions", "r.json", "--save", "s.json"], 2, "--save"),
        (["data", "--report", "r", "--limit", "3"], 2, "--limit"),
        (["data", "--weights", "shapes", "--weights", "shapes-detr", "--save", "s.json"], 2, "--save"),
        (["data", "--panoptic", "p.json"], 2, "--predictions"),
        (["data", "--save", "file/r.json"], 6, "file"),
        (["data", "--limit", "0"], 2, "--limit"),
    ],
)
def test_wrong_calls(detr: Detr, data: Data, args: list[str], code: int, named: str) -> None:
    Path("file").touch()
    args = args if "--weights" in args else [*args, "--weights", "shapes"]
    detr("eval", *args).fails(code, named)


def test_errors_of_the_data(detr: Detr, data: Data) -> None:
    data.document["annotations"][0]["bbox"] = [1, 2, 3]
    data.write()
    (data.root / "r.json").write_text("[]")
    detr("eval", "data", "--predictions", "data/r.json").fails(3, "annotation 0")
    assert detr("eval", "data", "--predictions", "data/r.json", "--skip-bad").code == 0


# Processes


@pytest.mark.slow
def test_two_processes_report_once(detr: Detr, weights: Path, data: Data, tmp_path: Path) -> None:
    """Five images in three sizes: each is evaluated once, and stdout contains a single document."""
    call = ["eval", data.root, "--weights", weights, "--device", "cpu", "--json", "--save"]
    alone = detr(*call, "alone.json").json
    shown = torchrun(*call, tmp_path / "both.json", "--batch-size", 2)
    assert shown.returncode == 0, shown.stderr
    both = json.loads(shown.stdout)
    assert both["metrics"] == pytest.approx(alone["metrics"], abs=1e-6)
    for document in (alone, both):
        for timed in ("seconds_per_picture", "scoring_seconds", "metrics", "per_class"):
            del document[timed]
    assert both == alone
    item, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("alone", "both"))
    assert [(r["image_id"], r["category_id"]) for r in two] == [(r["image_id"], r["category_id"]) for r in item]
    assert shown.stderr.count("data: tree") == 1


@pytest.mark.slow
def test_a_bad_image_in_one_process_ends_all(weights: Path, data: Data) -> None:
    """The fourth is the second process's second."""
    data.files[3].write_bytes(data.files[3].read_bytes()[:1500])
    shown = torchrun("eval", data.root, "--weights", weights, "--device", "cpu", "--json")
    assert shown.returncode != 0
    assert shown.stdout == ""
    assert "3.png: " in shown.stderr
