"""Masks on the command line: from published weights to JSON, COCO results and images."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from here import Detr
from PIL import Image
from pycocotools import mask as rle
from server import serving, whole
from small import CONFIG, published_names, smooth_noise

import detrcli
from detrcli.checkpoints import registry


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with a mask head, as the published training script saves it."""
    path = tmp_path_factory.mktemp("weights") / "masks.pth"
    torch.save({"model": published_names(masks=True)}, path)
    return path


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    smooth_noise(0, (240, 160)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_masks_equal_those_of_python(detr: Detr, weights: Path, picture: Path) -> None:
    asked = ("--weights", weights, "--threshold", 0, "--size", 64)
    found = detr("predict", picture, *asked, "--json", "--out", "drawn").ok().json["images"][0]["detections"]
    assert len(found) == CONFIG.queries
    detector = detrcli.load(str(weights), device="cpu", size=64)
    detections = detector.predict(str(picture), threshold=0)
    assert detections.masks is not None
    for each, mask in zip(found, detections.masks, strict=True):
        assert each["mask"]["size"] == [160, 240] == list(mask.shape)
        assert 0 < int(mask.sum()) == int(rle.area(each["mask"])) < mask.size
    with Image.open("drawn/a.png") as drawn:
        assert drawn.size == (240, 160)


def test_the_other_formats(detr: Detr, weights: Path, picture: Path) -> None:
    asked = ("predict", picture, "--weights", weights, "--threshold", 0.2, "--size", 64, "--no-images")
    coco = detr(*asked, "--format", "coco").json
    assert coco
    assert all(entry["segmentation"]["size"] == [160, 240] for entry in coco)
    header, first, *_ = detr(*asked, "--format", "csv").out.splitlines()
    assert header.count(",") == first.count(",") == 8
    assert "query" in detr(*asked).out
    assert detr(*asked, "--save", "lines.jsonl").code == 0
    line = json.loads(Path("lines.jsonl").read_text().splitlines()[1])
    assert len(line["detections"]) == len(coco)
    assert line["detections"][0]["mask"] == coco[0]["segmentation"]


def test_polygons_equal_the_masks(detr: Detr, weights: Path, picture: Path) -> None:
    """Polygons in JSON and lines, rasterized by pycocotools, equal the masks; other formats are refused."""
    asked = ("predict", picture, "--weights", weights, "--threshold", 0.2, "--size", 64, "--no-images")
    found = detr(*asked, "--json", "--polygons").json["images"][0]["detections"]
    assert found
    for each in found:
        runs = rle.merge(rle.frPyObjects([list(map(float, polygon)) for polygon in each["polygons"]], 160, 240))
        assert rle.iou([runs], [each["mask"]], [0]).item() == 1
    assert all("polygons" not in each for each in detr(*asked, "--json").json["images"][0]["detections"])
    lines = (*asked, "--save", "lines.jsonl")
    assert detr(*lines, "--polygons").code == 0
    line = json.loads(Path("lines.jsonl").read_text().splitlines()[1])
    assert [each["polygons"] for each in line["detections"]] == [each["polygons"] for each in found]
    assert detr(*lines, "--resume", "--polygons").code == 0
    assert "polygons" in detr(*lines, "--resume").err
    assert detr(*asked, "--polygons", "--format", "coco").code == 2
    detr("predict", picture, "--weights", "shapes", "--json", "--polygons", "--no-images").fails(2, "--polygons")


def test_published_weights_with_masks(
    detr: Detr, weights: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real names and the real code, with another file at another address."""
    body = weights.read_bytes()
    digest = hashlib.sha256(body).hexdigest()
    for name in ("detr-r50-panoptic", "detr-r50-dc5-panoptic"):
        file = f"{name}-{digest[:8]}.pth"
        with serving() as server:
            monkeypatch.setattr(registry, "BASE", server.url + "/detr/")
            monkeypatch.setitem(registry.PUBLISHED, name, registry.Published(name, digest, 38.8, 42_899_288))
            server.answers[f"/detr/{file}"] = whole(body)
            asked = ("--weights", name, "--threshold", 0, "--size", 64, "--no-images", "--json")
            shown = detr("predict", picture, *asked).ok()
            assert server.asked == [f"/detr/{file}"]
        found = shown.json["images"][0]["detections"]
        assert all("mask" in each for each in found)


def test_panoptic_maps(detr: Detr, picture: Path, tmp_path: Path) -> None:
    """Each PNG has the segments of the file as colors. Images of equal names get distinct maps."""
    state = published_names(masks=True)
    state["detr.class_embed.bias"] = state["detr.class_embed.bias"] + torch.tensor([5.0, 4.0, 0, 0])
    state["mask_head.out_lay.bias"] = state["mask_head.out_lay.bias"] + 1
    torch.save({"model": state}, "sure.pth")
    Image.open(picture).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.jpg")
    asked = ("--weights", "sure.pth", "--threshold", 0.2, "--size", 64, "--format", "panoptic")
    shown = detr("predict", "a.png", "a.jpg", *asked, "--out", "out", "--no-images").ok()
    document = json.loads(Path("out/panoptic.json").read_text())
    assert shown.json == document
    assert len({each["file_name"] for each in document["annotations"]}) == 2
    for annotation, (width, height) in zip(document["annotations"], [(240, 160), (160, 240)], strict=True):
        with Image.open(Path("out/panoptic", annotation["file_name"])) as map_:
            pixels = np.asarray(map_).astype(np.int64)
        assert pixels.shape == (height, width, 3)
        ids, areas = np.unique(pixels @ (1, 256, 65536), return_counts=True)
        drawn = dict(zip(ids.tolist(), areas.tolist(), strict=True))
        drawn.pop(0, None)
        assert drawn == {each["id"]: each["area"] for each in annotation["segments_info"]}
        assert drawn
    assert {each["isthing"] for each in document["categories"]} == {1}
    assert not Path("out/a.png").exists()
    same = detr("eval", "--panoptic", "out/panoptic.json", "--predictions", "out/panoptic.json", "--json")
    assert same.json["panoptic"]["PQ"] == 1


def test_panoptic_maps_and_their_errors(detr: Detr, weights: Path, picture: Path) -> None:
    asked = ("predict", "a.png", "--weights", weights, "--format", "panoptic", "--size", 64)
    shown = detr(*asked).ok()
    assert "predictions" in shown.err
    with Image.open("predictions/a.png") as drawn:
        assert drawn.size == (240, 160)
    assert Path("predictions/panoptic/a.png").is_file()
    detr("predict", "a.png", "--weights", "shapes", "--format", "panoptic", "--out", "other").fails(2, "mask head")


@pytest.mark.parametrize("format_", ["panoptic", "semantic"])
def test_maps_never_overwrite_an_input(detr: Detr, weights: Path, picture: Path, format_: str) -> None:
    """An input in the folder of maps, and annotations whose name is that of the maps' JSON file."""
    asked = ("--weights", weights, "--size", 64, "--format", format_, "--out", "out", "--overwrite")
    for drawing in ((), ("--no-images",)):
        image = Path("out", format_, "a.png")
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(picture.read_bytes())
        detr("predict", image, *asked, *drawing).fails(2, str(image))
        assert image.read_bytes() == picture.read_bytes()
        image.unlink()
        annotations = Path("out", f"{format_}.json")
        annotations.write_text('{"images": [{"id": 7, "file_name": "a.png"}]}')
        detr("predict", picture, *asked, *drawing, "--ids-from", annotations).fails(2, str(annotations))
        assert "annotations" not in json.loads(annotations.read_text())
        annotations.unlink()


def test_the_compiled_engine_does_not_support_masks(detr: Detr, weights: Path, picture: Path) -> None:
    detr("predict", "a.png", "--engine", "compiled", "--weights", weights).fails(2, "--engine fast")
