"""`detr predict` writing datasets for other tools, and crops: contents, names, and what is never overwritten."""

import json
import os
import urllib.parse
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from here import Detr, torchrun
from PIL import Image, ImageOps
from pycocotools import mask as rle

import detrcli
from detrcli.api.prediction_files import Destination
from detrcli.checkpoints.formats import native
from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.raw_annotations import RawAnnotations
from detrcli.data.segmentations import mask_of
from detrcli.data.shapes import DEFAULT, scene
from detrcli.data.source import open_data
from detrcli.errors import UsageError
from detrcli.inference.stream import ImageResult
from detrcli.polygons import joined, polygons_of
from detrcli.structures import Classes, Detections
from detrcli.system.text import as_file_name

NAMES = ("a/b", "con", "..", "é 猫", "x")  # of classes
FOLDERS = dict(zip(NAMES, ("a_b", "_con", "_", "é 猫", "x"), strict=True))
FORMATS = ("yolo", "voc", "labelstudio", "fiftyone")
Rows = dict[str, list[tuple[str, list[float], float]]]  # by file: label, xyxy box and score


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights `shapes`, with other class names."""
    path = tmp_path_factory.mktemp("weights") / "renamed.safetensors"
    checkpoint = load_checkpoint("shapes")
    native.save(replace(checkpoint, classes=Classes(checkpoint.classes.ids, np.array(NAMES))), path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images of different sizes and formats, with equal names, a folder of layouts' names, one turned by EXIF, and a
    file that is not an image.
    """
    sizes = {"a.png": (110, 90), "a.jpg": (90, 128), "images/b é #1.png": (128, 100), "images/a.bmp": (128, 128)}
    for number, (name, (width, height)) in enumerate(sizes.items()):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(scene(7, number, size=128, classes=DEFAULT, most=5).pixels[:height, :width])
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(path, **({"exif": exif} if name == "a.jpg" else {}))
    (tmp_path / "photos" / "broken.png").write_bytes(b"text")
    return tmp_path / "photos"


@pytest.fixture
def call(detr: Detr, photos: Path, weights: Path) -> Any:
    def run(*options: object) -> Any:
        return detr("predict", photos, "--weights", weights, "--threshold", 0.05, "--device", "cpu", *options)

    return run


def clipped(call: Any) -> Rows:
    """The objects by the JSON document, by the name of their image."""
    images = call("--json", "--clip", "--no-images").json["images"]
    assert sum(len(image["detections"]) for image in images) > 8
    return {
        Path(image["file"]).relative_to(Path(image["file"]).parts[0]).as_posix().split("photos/")[-1]: [
            (row["label"], row["box"], row["score"]) for row in image["detections"]
        ]
        for image in images
    }


def read_back(folder: str) -> tuple[RawAnnotations, dict[str, list[tuple[str, list[float]]]]]:
    """The objects of a dataset by the image's size, which is different for each."""
    raw = next(iter(open_data(Path(folder)).readers.values()))()
    names = dict(zip(raw.category_ids.tolist(), raw.names, strict=True))
    objects: dict[str, list[tuple[str, list[float]]]] = {file: [] for file in raw.files}
    index = raw.image_index()
    for i, (x, y, w, h), category in zip(index.tolist(), raw.boxes.tolist(), raw.of_category.tolist(), strict=True):
        objects[raw.files[i]].append((names[category], [x, y, x + w, y + h]))
    assert not raw.problems
    for i, file in enumerate(raw.files):
        assert raw.path(i).is_file(), file
    return raw, objects


def by_pixels(folder: Path) -> dict[bytes, str]:
    """The images below a folder by their pixels."""
    found = {}
    for path in sorted(folder.rglob("*.*")):
        if path.suffix in (".png", ".jpg", ".bmp") and path.name != "broken.png":
            with Image.open(path) as image:
                found[np.asarray(ImageOps.exif_transpose(image)).tobytes()] = path.relative_to(folder).as_posix()
    return found


@pytest.mark.parametrize(
    ("format_", "images", "tolerance"),
    [("yolo", "images", 1e-3), ("voc", "JPEGImages", 0.5), ("fiftyone", "data", 2e-3)],
)
def test_datasets_are_read_back(call: Any, photos: Path, format_: str, images: str, tolerance: float) -> None:
    """The images are equal to the inputs, and the boxes to those of the JSON document.

    VOC's are rounded, and have a pixel at least.
    """
    expected = clipped(call)
    shown = call("--format", format_, "--out", "out").ok()
    count = sum(map(len, expected.values()))
    assert shown.out.startswith(f"5 images, {count} objects, written to out\n")
    raw, objects = read_back("out")
    inputs, copies = by_pixels(photos), by_pixels(Path("out", images))
    assert inputs.keys() == copies.keys()
    assert set(raw.files) == {Path(name).name if format_ == "voc" else name for name in copies.values()}
    for pixels, name in copies.items():
        rows = expected[inputs[pixels]]
        assert [row[0] for row in objects[name]] == [row[0] for row in rows]
        for (_, box), (_, (x0, y0, x1, y1), _) in zip(objects[name], rows, strict=True):
            thin = format_ == "voc" and min(x1 - x0, y1 - y0) < 1
            np.testing.assert_allclose(box, (x0, y0, x1, y1), rtol=0, atol=1 if thin else tolerance + 1e-9)
    assert not Path("out", "annotated").exists()


def test_voc_files(call: Any) -> None:
    """Boxes are integers within the image, counted from 1, as in the VOC devkit; scores only if requested."""
    call("--format", "voc", "--out", "out", "--save-conf").ok()
    scores = []
    for path in Path("out", "Annotations").iterdir():
        root = ElementTree.parse(path).getroot()
        width, height = (int(root.findtext(f"size/{side}") or "") for side in ("width", "height"))
        assert Path("out", "JPEGImages", root.findtext("filename") or "").is_file()
        for element in root.iter("object"):
            x0, y0, x1, y1 = (int(element.findtext(f"bndbox/{key}") or "") for key in ("xmin", "ymin", "xmax", "ymax"))
            assert 1 <= x0 <= x1 <= width
            assert 1 <= y0 <= y1 <= height
            scores.append(float(element.findtext("confidence") or ""))
    assert min(scores) >= 0.05
    call("--format", "voc", "--out", "plain").ok()
    assert all("confidence" not in path.read_text() for path in Path("plain", "Annotations").iterdir())


def test_label_studio_tasks(call: Any, photos: Path) -> None:
    """By the documented format: percent of the image, distinct ids, and names of the labeling interface."""
    expected = clipped(call)
    call("--format", "labelstudio", "--out", "out").ok()
    tasks = json.loads(Path("out", "tasks.json").read_text())
    interface = ElementTree.parse("out/config.xml").getroot()
    (image,), (labels,) = interface.findall("Image"), interface.findall("RectangleLabels")
    assert [label.get("value") for label in labels] == list(NAMES)
    inputs, ids, objects = by_pixels(photos), set(), 0
    for task in tasks:
        assert image.get("value") == "$image"
        url = urllib.parse.urlparse(task["data"]["image"])
        assert url.path == "/data/local-files/"
        with Image.open(Path("out", urllib.parse.parse_qs(url.query)["d"][0])) as opened:
            upright = ImageOps.exif_transpose(opened)
            rows = expected[inputs[np.asarray(upright).tobytes()]]
        (prediction,) = task["predictions"]
        assert prediction["model_version"].endswith("renamed.safetensors")
        assert len(prediction["result"]) == len(rows)
        if rows:
            assert prediction["score"] == pytest.approx(np.mean([score for *_, score in rows]), abs=1e-5)
        for shape, (label, box, score) in zip(prediction["result"], rows, strict=True):
            value = shape["value"]
            assert (shape["type"], value["rectanglelabels"], value["rotation"]) == ("rectanglelabels", [label], 0)
            assert (shape["from_name"], shape["to_name"]) == (labels.get("name"), image.get("name"))
            assert (shape["original_width"], shape["original_height"]) == upright.size
            assert shape["score"] == score
            x, y = value["x"] * upright.width / 100, value["y"] * upright.height / 100
            w, h = value["width"] * upright.width / 100, value["height"] * upright.height / 100
            np.testing.assert_allclose([x, y, x + w, y + h], box, rtol=0, atol=2e-3)
            ids.add(shape["id"])
            objects += 1
    assert len(ids) == objects > 0
    assert len(tasks) == len(expected)


def test_fiftyone_labels(call: Any) -> None:
    """The keys of FiftyOne's COCODetectionDataset, and the scores, which are its confidences."""
    expected = [score for rows in clipped(call).values() for *_, score in rows]
    call("--format", "fiftyone", "--out", "out").ok()
    document = json.loads(Path("out", "labels.json").read_text())
    assert [category["name"] for category in document["categories"]] == list(NAMES)
    assert [row["score"] for row in document["annotations"]] == expected
    ids = {image["id"] for image in document["images"]}
    for number, row in enumerate(document["annotations"], 1):
        assert row.keys() == {"id", "image_id", "category_id", "bbox", "score", "area", "iscrowd"}
        assert row["id"] == number
        assert row["image_id"] in ids
        assert row["area"] == row["bbox"][2] * row["bbox"][3] > 0


def test_labels_without_images(call: Any, photos: Path, tmp_path: Path) -> None:
    """No file is copied, and documents refer to the inputs."""
    for format_ in ("labelstudio", "fiftyone"):
        call("--format", format_, "--out", format_, "--no-images").ok()
        assert not by_pixels(tmp_path / format_)
    assert {
        Path(image["file_name"]).parent.name
        for image in json.loads(Path("fiftyone", "labels.json").read_text())["images"]
    } == {"photos", "images"}
    tasks = json.loads(Path("labelstudio", "tasks.json").read_text())
    for task in tasks:
        assert Path("/" + urllib.parse.parse_qs(urllib.parse.urlparse(task["data"]["image"]).query)["d"][0]).is_file()


def test_save_txt_is_the_yolo_format(call: Any) -> None:
    """With a table and annotated images, which are apart from the dataset; scores are a sixth number."""
    call("--format", "yolo", "--out", "dataset").ok()
    shown = call("--save-txt", "--save-conf", "--out", "too").ok()
    assert shown.out.startswith("file ")
    one, two = Path("dataset"), Path("too")
    assert (one / "data.yaml").read_bytes() == (two / "data.yaml").read_bytes()
    files = sorted(one.rglob("*.txt"))
    assert len(files) == 4
    for path in files:
        lines = path.read_text().splitlines()
        scored = (two / path.relative_to(one)).read_text().splitlines()
        assert [line.rsplit(" ", 1)[0] for line in scored] == lines
        assert all(len(line.split()) == 6 and float(line.split()[5]) >= 0.05 for line in scored)
    assert len(by_pixels(two / "annotated")) == 4
    assert json.loads(call("--save-txt", "--json", "--out", "json").out)["schema"] == "detr.predict/1"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pycocotools with numpy 2
def test_masks_become_polygons(detr: Detr, tmp_path: Path) -> None:
    """YOLO segments, Label Studio polygons and FiftyOne's RLE are the masks of the JSON document."""
    detr("data", "make", "shapes", "data", "--images", 5, "--size", 96)
    (tmp_path / "in").mkdir()
    os.replace("data/train/000001.png", "in/a.png")
    asked = ("predict", "in", "--weights", "shapes-masks", "--threshold", 0.3)
    found = detr(*asked, "--json", "--no-images").json["images"][0]["detections"]
    masks = [rle.decode(row["mask"]).astype(bool) for row in found]
    assert len(masks) > 1
    for format_ in ("yolo", "fiftyone"):
        detr(*asked, "--format", format_, "--out", format_).ok()
        raw, _ = read_back(format_)
        for text, mask in zip(raw.texts(np.arange(len(found))), masks, strict=True):
            np.testing.assert_array_equal(mask_of(text, 96, 96), mask)
    detr(*asked, "--format", "labelstudio", "--out", "tasks").ok()
    (task,) = json.loads(Path("tasks", "tasks.json").read_text())
    shapes = task["predictions"][0]["result"]
    assert {shape["type"] for shape in shapes} == {"polygonlabels"}
    drawn = [(np.array(shape["value"]["points"]) * 0.96).round(3).ravel().tolist() for shape in shapes]
    union = rle.decode(rle.merge(rle.frPyObjects(drawn, 96, 96)))
    np.testing.assert_array_equal(union.astype(bool), np.any(masks, axis=0))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_parts_of_a_mask_become_one_polygon() -> None:
    """Five parts, one with a hole: pycocotools draws the same mask from the joined polygon."""
    mask = np.zeros((40, 50), dtype=bool)
    for y, x, h, w in ((2, 3, 9, 12), (20, 4, 6, 5), (5, 30, 14, 10), (30, 30, 4, 15), (36, 1, 2, 2)):
        mask[y : y + h, x : x + w] = True
    mask[4:8, 6:10] = False
    polygon = joined(polygons_of(mask))
    runs = rle.frPyObjects([list(map(float, polygon))], 40, 50)[0]
    np.testing.assert_array_equal(rle.decode(runs).astype(bool), mask)


def test_crops(call: Any, photos: Path, tmp_path: Path) -> None:
    """The pixels in each box, in folders that are safe for any class name. PNG and BMP lose nothing."""
    expected = clipped(call)
    call("--save-crop", "--no-images", "--out", "out").ok()
    folders = {path.name for path in Path("out", "crops").iterdir()}
    assert folders == {FOLDERS[label] for rows in expected.values() for label, *_ in rows}
    assert len(list(Path("out", "crops").rglob("*.*"))) == sum(map(len, expected.values()))
    with Image.open(photos / "images" / "b é #1.png") as image:
        for number, (label, (x0, y0, x1, y1), _) in enumerate(expected["images/b é #1.png"], 1):
            path = Path("out", "crops", FOLDERS[label], "images", f"b é #1-{number}.png")
            with Image.open(path) as crop:
                box = (int(x0), int(y0), int(np.ceil(x1)), int(np.ceil(y1)))
                np.testing.assert_array_equal(np.asarray(crop), np.asarray(image.crop(box)))
    assert list(Path("out", "crops").rglob("a-1.jpg"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cat", "cat"), ("wine glass", "wine glass"), ("Żubr 猫", "Żubr 猫"), ("a/b\\c", "a_b_c"), ("..", "_"),
        (".hidden. ", "hidden"), ("con", "_con"), ("NUL.txt", "_NUL.txt"), ("com1", "_com1"), ("console", "console"),
        ("", "_"), ("a:b*?\"<>|", "a_b______"), ("a\x1b\u202eb\ud800", "a__b_"), ("e\u0301", "é"),
        ("é" * 300, "é" * 100),
    ],
)  # fmt: skip
def test_names_of_files(name: str, expected: str) -> None:
    assert as_file_name(name) == expected


def test_unused_ids_of_coco_are_left_out() -> None:
    """YOLO's numbers count the named classes, and an object of a nameless class is not written."""
    to = Destination(Path(), Classes(np.array([1, 12, 13]), np.array(["a", "N/A", "b"])), "")
    assert (to.names, to.index) == ({1: "a", 13: "b"}, {1: 0, 13: 1})
    boxes = np.array([[0, 0, 9, 9]] * 3 + [[-9, 0, 0, 9]], dtype=np.float32)
    scores, ids = np.ones(4, dtype=np.float32), np.array([13, 12, 1, 1])
    found = Detections(boxes, scores, ids, queries=np.arange(4), labels=np.array(["b", "N/A", "a", "a"]))
    assert to.objects(ImageResult("a.png", (20, 20), found)).labels.tolist() == ["b", "a"]


def test_classes_whose_folders_would_be_equal() -> None:
    classes = Classes(np.arange(4), np.array(["a/b", "a_b", "A:B", "c"]))
    folders = Destination(Path(), classes, "").class_folders
    assert [str(folder) for folder in folders.values()] == ["a_b", "a_b-2", "A_B-3", "c"]


@pytest.mark.parametrize(
    ("image", "options"),
    [
        ("out/images/a.png", ("--format", "yolo")),
        ("out/images/a.png", ("--format", "labelstudio")),
        ("out/JPEGImages/a.png", ("--format", "voc")),
        ("out/data/a.png", ("--format", "fiftyone")),
        ("out/annotated/a.png", ("--save-crop",)),
        ("out/crops/a_b/a-1.png", ("--save-crop", "--no-images")),
        ("out/images/a.png", ("--save-txt",)),
        ("out/a.png", ()),
    ],
)
def test_inputs_are_never_overwritten(
    image: str, options: tuple[str, ...], detr: Detr, photos: Path, weights: Path, tmp_path: Path
) -> None:
    path = tmp_path / image
    path.parent.mkdir(parents=True)
    path.write_bytes((photos / "a.png").read_bytes())
    before = path.read_bytes()
    (tmp_path / "link").symlink_to("out")
    for out in ("out", "link"):
        detr("predict", image, "--weights", weights, "--overwrite", "--out", out, *options).fails(2, out, "--out")
    assert [file for file in (tmp_path / "out").rglob("*") if file.is_file()] == [path]
    assert path.read_bytes() == before


def test_other_inputs_are_never_overwritten(detr: Detr, photos: Path, weights: Path, tmp_path: Path) -> None:
    """Thresholds, ids and weights in the places of documents."""
    (tmp_path / "out").mkdir()
    thresholds = {"schema": "detr.thresholds/1", "all": {"threshold": 0.3}, "classes": {}}
    for place, text, options in (
        ("out/labels.json", json.dumps(thresholds), ("--format", "fiftyone", "--threshold", "out/labels.json")),
        ("out/tasks.json", json.dumps(thresholds), ("--format", "labelstudio", "--threshold", "out/tasks.json")),
        ("t.jsonl", json.dumps(thresholds), ("--save", "t.jsonl", "--threshold", "t.jsonl")),
        ("out/labels.json", '{"images": []}', ("--format", "fiftyone", "--ids-from", "out/labels.json")),
    ):
        (tmp_path / place).write_text(text)
        assert detr(
            "predict", photos / "a.png", "--weights", weights, "--out", "out", "--overwrite", *options
        ).code in (2, 3)
        assert (tmp_path / place).read_text() == text


def test_two_files_of_the_same_name_are_refused(detr: Detr, tmp_path: Path) -> None:
    """An annotated image and a map."""
    for name in ("in/a.png", "in/panoptic/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (50, 40)).save(tmp_path / name)
    asked = ("predict", "in", "--weights", "shapes-masks", "--format", "panoptic", "--out", "out")
    detr(*asked).fails(2, "panoptic/a.png")
    assert not Path("out").exists()
    assert detr(*asked, "--no-images").code == 0


def test_resuming_with_files(call: Any, tmp_path: Path) -> None:
    """Labels and crops of the images that are not yet in the file; a file about all images cannot be continued."""
    options = ("--save", "found.jsonl", "--format", "yolo", "--save-crop", "--out", "out")
    call(*options).ok()
    whole = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    lines = (tmp_path / "found.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "found.jsonl").write_bytes(b"".join(lines[:3]))
    labels = sorted(Path("out", "labels").rglob("*.txt"))
    for path in labels[2:]:
        path.unlink()
    (tmp_path / "out" / "data.yaml").unlink()
    shown = call(*options, "--resume").ok()
    assert shown.out.startswith("3 images")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()} == whole
    call("--save", "found.jsonl", "--format", "yolo", "--resume").fails(2, "--out")
    call("--save", "found.jsonl", "--save-crop", "--resume").fails(2, "--out")
    call("--save", "found.jsonl", "--format", "labelstudio", "--resume", "--out", "out").fails(2, "labelstudio")
    call("--save", "found.jsonl", "--resume", "--one-label").fails(2, "one_label")


def test_a_document_with_lines(call: Any) -> None:
    """FiftyOne's document has all detections, although only the lines keep them."""
    call("--format", "fiftyone", "--out", "alone").ok()
    call("--format", "fiftyone", "--save", "found.jsonl", "--out", "both").ok()
    assert Path("alone", "labels.json").read_bytes() == Path("both", "labels.json").read_bytes()


def test_options_that_do_not_fit(call: Any) -> None:
    for options, named in (
        (("--format", "voc", "--save-txt"), "--save-txt"),
        (("--save-conf",), "--save-conf"),
        (("--save-conf", "--format", "fiftyone"), "--save-conf"),
        (("--format", "yolo", "--line-width", 3), "--line-width"),
        (("--no-images", "--hide-labels"), "--hide-labels"),
        (("--max-det", 0), "max-det"),
        (("--format", "panoptic", "--save-crop"), "--save-crop"),
        (("--format", "panoptic", "--max-det", 3), "--max-det"),
        (("--format", "panoptic", "--save-txt"), "--save-txt"),
    ):
        call(*options).fails(2, named)


def test_python_writes_the_same(call: Any, photos: Path, weights: Path, tmp_path: Path) -> None:
    call("--format", "voc", "--save-crop", "--out", "command", "--max-det", 2, "--one-label").ok()
    options = detrcli.LoadOptions(str(weights), "cpu")
    found = detrcli.predict(
        photos, options, threshold=0.05, labels="voc", crops=True, out="python", max_detections=2, one_label=True
    )
    assert list(found.written) == [Path("python")]
    files = [
        {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*.*") if path.is_file()}
        for folder in ("command", "python")
    ]
    assert files[0] == files[1]
    assert len(files[0]) == 8 + found.objects
    for wrong in ({"max_detections": 0}, {"labels": "coco"}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            detrcli.predict(photos, options, **wrong)


@pytest.mark.slow
@pytest.mark.parametrize("format_", FORMATS)
def test_two_processes_write_the_same(call: Any, photos: Path, weights: Path, tmp_path: Path, format_: str) -> None:
    options = ("--threshold", 0.05, "--device", "cpu", "--format", format_, "--save-crop")
    call("--format", format_, "--save-crop", "--out", "one").ok()
    done = torchrun("predict", photos, "--weights", weights, *options, "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("5 images")
    names = [sorted(path.relative_to(folder) for path in Path(folder).rglob("*.*")) for folder in ("one", "two")]
    assert names[0] == names[1]
    for name in names[0]:
        if name.suffix == ".json":
            assert json.loads(Path("one", name).read_text()) == json.loads(Path("two", name).read_text())
