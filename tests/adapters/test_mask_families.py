"""Mask classifiers, compared with transformers' own pipeline."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import CLASSES, changed, images, truth_of_predictions
from here import Detr
from judge import twelve
from mask_families import NAMES, QUERIES, folder_of, processor_of
from PIL import Image
from pycocotools import mask as rle
from trainings import shapes_folder
from transformers import AutoModelForUniversalSegmentation

import detrcli
from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.make import make_shapes
from detrcli.data.preprocessing import collate, prepare
from detrcli.inference.detector import Detector
from detrcli.segmentation.maps import MapRequest, PanopticMap, SemanticMap

CPU = torch.device("cpu")


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    next(images()).save(tmp_path / "a.png")
    return tmp_path / "a.png"


data = shapes_folder(images=4, size=64, objects=2)


class Judge:
    """Transformers' own pipeline."""

    def __init__(self, name: str, folder: Path) -> None:
        self.network: Any = AutoModelForUniversalSegmentation.from_pretrained(folder).eval()
        self.processor = processor_of(name)

    @torch.no_grad()
    def output(self, image: Image.Image) -> Any:
        pixels = self.processor(images=image, return_tensors="pt")["pixel_values"]
        # In our memory format, on which the last bits of a convolution depend.
        return self.network(pixels.contiguous(memory_format=torch.channels_last))

    def instances(self, image: Image.Image, threshold: float) -> list[tuple[float, int, np.ndarray]]:
        """Return score, class and mask of each."""
        (answer,) = self.processor.post_process_instance_segmentation(
            self.output(image), threshold=threshold, target_sizes=[image.size[::-1]], return_binary_maps=True
        )
        return [
            (info["score"], info["label_id"], mask.bool().numpy())
            for info, mask in zip(answer["segments_info"], answer["segmentation"], strict=True)
        ]


def test_instances(name: str, folder: Path) -> None:
    detector, judge = Detector(load_checkpoint(str(folder)), CPU, engine="plain"), Judge(name, folder)
    assert detector.classes.names.tolist() == list(CLASSES.values())
    labels = set()
    for image in images():
        detections, theirs = detector.predict(image, threshold=0.0), judge.instances(image, 0.0)
        assert len(detections) == len(theirs) > 5
        for row, mask in enumerate(detections.masks):
            similar = [
                other for score, label, other in theirs
                if label == detections.category_ids[row] and abs(score - detections.scores[row]) < 1e-4
            ]  # fmt: skip
            assert any((mask == other).all() for other in similar)
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert detections.boxes[row].tolist() == box
        np.testing.assert_allclose(np.sort(detections.scores), sorted(score for score, *_ in theirs), atol=1e-4)
        assert len(detector.predict(image, threshold=0.3)) == len(judge.instances(image, 0.3))
        labels |= set(detections.labels)
    assert len(labels) > 2


def test_maps(name: str, folder: Path) -> None:
    detector, judge = Detector(load_checkpoint(str(folder)), CPU, engine="plain"), Judge(name, folder)
    several, segments = list(images()), 0
    streams = [
        detector.stream(several, maps=request)
        for request in (MapRequest("panoptic"), MapRequest("panoptic", 0.2), MapRequest("semantic"))
    ]
    for image, default, low, semantic in zip(several, *streams, strict=True):
        output, size = judge.output(image), [image.size[::-1]]
        for ours, options in ((default, {}), (low, {"threshold": 0.2})):
            (expected,) = judge.processor.post_process_panoptic_segmentation(
                output, target_sizes=size, label_ids_to_fuse=set(), **options
            )
            assert isinstance(ours.map, PanopticMap)
            assert ours.detections is None
            theirs = expected["segments_info"]
            pairs = [(segment.id, segment.category_id) for segment in ours.map.segments]
            assert pairs == [(info["id"], info["label_id"]) for info in theirs]
            scores = [segment.score for segment in ours.map.segments]
            np.testing.assert_allclose(scores, [info["score"] for info in theirs], atol=1e-4)
            np.testing.assert_array_equal(ours.map.ids, expected["segmentation"].clamp(min=0))
            segments += len(theirs)
        (classes,) = judge.processor.post_process_semantic_segmentation(output, target_sizes=size)
        assert isinstance(semantic.map, SemanticMap)
        np.testing.assert_array_equal(semantic.map.ids, classes)
    assert segments > 5


@torch.no_grad()
def test_the_fast_engine_and_batches(folder: Path) -> None:
    checkpoint = load_checkpoint(str(folder))
    batch = collate([prepare(image, checkpoint.preprocessing) for image in [*images()][:1] * 2])
    plain = checkpoint.model()(batch).last
    fast = Detector(checkpoint, CPU, engine="fast").engine(batch)
    torch.testing.assert_close(fast.logits, plain.logits, atol=1e-4, rtol=1e-4)
    queries = torch.arange(QUERIES)
    for image in (0, 1):
        of = torch.full_like(queries, image)
        torch.testing.assert_close(fast.masks(of, queries), plain.masks(of, queries), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(plain.boxes[0], plain.boxes[1], atol=1e-6, rtol=0)


def test_evaluation(name: str, folder: Path, tmp_path: Path, detr: Detr) -> None:
    """The metrics of masks and of the boxes around them are those of pycocotools."""
    make_shapes(tmp_path / "data", images=16, size=64, objects=3)
    judge = Judge(name, folder)

    def entry(label: int, mask: np.ndarray) -> dict[str, Any]:
        runs = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
        return {
            "category_id": label + 1,
            "bbox": rle.toBbox(runs).tolist(),
            "segmentation": {**runs, "counts": runs["counts"].decode()},
        }

    def predict(image: Image.Image) -> Any:
        for number, (score, label, mask) in enumerate(judge.instances(image, 0.0)):
            moved = np.roll(mask, (number % 3, number % 5), (0, 1))
            moved = moved if moved.any() else mask
            yield {**entry(label, mask), "score": score}, {**entry(label, moved), "area": int(moved.sum())}

    truth, results = truth_of_predictions(tmp_path / "data", predict, every=3)
    assert [(entry["id"] - 1, entry["name"]) for entry in truth["categories"]] == list(CLASSES.items())
    shown = detr("eval", tmp_path / "data", "--weights", folder, "--json", "--device", "cpu").ok()
    bare = [{key: value for key, value in result.items() if key != "bbox"} for result in results]
    boxes, masks = twelve(truth, results), twelve(truth, bare, kind="segm")
    assert boxes["AR100"] > 0.05
    assert shown.json["metrics"] == pytest.approx(boxes, abs=5e-3)
    assert shown.json["masks"] == pytest.approx(masks, abs=5e-3)


def test_predict(folder: Path, image: Path, detr: Detr) -> None:
    command = ("predict", image, "--weights", folder, "--device", "cpu")
    shown = detr(*command, "--threshold", 0.1, "--json", "--out", "drawn").ok()
    detections = shown.json["images"][0]["detections"]
    assert detections
    for detection in detections:
        x, y, w, h = rle.toBbox(detection["mask"]).tolist()
        assert detection["box"] == [x, y, x + w, y + h]
    assert len(detections) == len(detrcli.load(folder, "cpu").predict(str(image), threshold=0.1))
    assert Path("drawn/a.png").is_file()

    coco = detr(*command, "--threshold", 0.1, "--format", "coco", "--no-images")
    assert [entry["segmentation"] for entry in coco.json] == [detection["mask"] for detection in detections]
    panoptic = detr(*command, "--format", "panoptic", "--threshold", 0.2, "--out", "panoptic").ok()
    assert json.loads(Path("panoptic/panoptic.json").read_text()) == panoptic.json
    assert panoptic.json["annotations"][0]["segments_info"]
    assert Path("panoptic/a.png").is_file()


def test_semantic_maps(name: str, folder: Path, image: Path, detr: Detr) -> None:
    """PNGs whose gray levels are class ids, and a JSON with the areas."""
    Image.open(image).rotate(90, expand=True).save("b.png")
    command = ("predict", image, "b.png", "--weights", folder, "--format", "semantic")
    shown = detr(*command, "--out", "out").ok()
    document = shown.json
    assert json.loads(Path("out/semantic.json").read_text()) == document
    assert [entry["name"] for entry in document["categories"]] == list(CLASSES.values())
    judge = Judge(name, folder)
    for file, annotation in zip(("a.png", "b.png"), document["annotations"], strict=True):
        pixels = Image.open(file).convert("RGB")
        (expected,) = judge.processor.post_process_semantic_segmentation(
            judge.output(pixels), target_sizes=[pixels.size[::-1]]
        )
        with Image.open(Path("out/semantic", annotation["file_name"])) as map_:
            assert map_.mode == "L"
            ids = np.asarray(map_)
        assert (ids == expected.numpy()).mean() > 0.999  # the fast engine rounds differently
        areas = dict(zip(*(part.tolist() for part in np.unique(ids, return_counts=True)), strict=True))
        assert areas == {entry["category_id"]: entry["area"] for entry in annotation["segments_info"]}
        assert Path("out", file).is_file()
    assert detr(*command, "--out", "maps", "--no-images").code == 0
    assert not Path("maps/a.png").exists()


@pytest.mark.parametrize(
    "command",
    [
        "visualize-attn a.png --weights FOLDER",
        "predict a.png --engine compiled --weights FOLDER",
        "predict a.png --format semantic --threshold 0.5 --weights FOLDER",
        "predict a.png --format semantic --classes star --weights FOLDER",
    ],
)
@pytest.mark.usefixtures("image")
def test_commands_and_options_that_do_not_take_them(command: str, detr: Detr) -> None:
    shown = detr(*(str(folder_of("mask2former")) if word == "FOLDER" else word for word in command.split()))
    assert shown.code == 2, shown.err
    assert {path.name for path in Path().iterdir()} == {"a.png"}


def test_stuff_is_recognized_by_cocos_names(tmp_path: Path) -> None:
    """In any order, if all names are COCO's and some of them are stuff."""
    names = ["sky-other-merged", "person", "LABEL_2", "grass-merged", "dog"]
    for others, things in (
        (names, [False, True, False, True]),
        ([*names[:4], "unicorn"], None),
        (["person", "dog", "cat", "bird", "cow"], None),
    ):
        place = changed(folder_of("mask2former"), tmp_path / others[-1], id2label=dict(enumerate(others)))
        classes = load_checkpoint(place).classes
        assert (None if classes.things is None else classes.things[[0, 1, 3, 4]].tolist()) == things
