"""EoMT and EoMT-DINOv3, compared with transformers' own pipeline."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import CLASSES, changed, images
from here import Detr
from mask_families import ENCODERS, folder_of, processor_of
from PIL import Image
from trainings import shapes_folder
from transformers import AutoModelForUniversalSegmentation

from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.preprocessing import prepare
from detrcli.errors import UsageError, WeightsError
from detrcli.inference.detector import Detector
from detrcli.segmentation.maps import MapRequest, PanopticMap, SemanticMap

CPU = torch.device("cpu")
PROCESSOR = "preprocessor_config.json"
data = shapes_folder(images=4, size=64, objects=2)


@pytest.fixture(params=[ENCODERS[0], pytest.param(ENCODERS[1], marks=pytest.mark.slow)])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@torch.no_grad()
def output_of(folder: Path, name: str, image: Image.Image) -> Any:
    network = AutoModelForUniversalSegmentation.from_pretrained(folder).eval()
    return network(processor_of(name)(images=image, return_tensors="pt")["pixel_values"])


def test_predictions(name: str) -> None:
    folder, processor = folder_of(name), processor_of(name)
    detector = Detector(load_checkpoint(str(folder)), CPU, engine="plain")
    several, segments, labels = list(images()), 0, set()
    streams = [
        detector.stream(several, maps=request)
        for request in (MapRequest("panoptic"), MapRequest("panoptic", 0.2), MapRequest("semantic"))
    ]
    for image, default, low, semantic in zip(several, *streams, strict=True):
        output, size = output_of(folder, name, image), [image.size[::-1]]
        (expected,) = processor.post_process_instance_segmentation(output, target_sizes=size, threshold=0.0)
        found = detector.predict(image, threshold=0.0)
        assert [CLASSES[info["label_id"]] for info in expected["segments_info"]] == found.labels.tolist()
        scores = [info["score"] for info in expected["segments_info"]]
        np.testing.assert_allclose(found.scores, scores, atol=2e-6)
        assert found.masks is not None
        drawn = np.full(size[0], -1)
        for row, mask in enumerate(found.masks):  # in transformers a mask covers those before it
            drawn[mask] = row
        np.testing.assert_array_equal(drawn, expected["segmentation"])
        for ours, threshold in ((default, 0.8), (low, 0.2)):
            (expected,) = processor.post_process_panoptic_segmentation(output, target_sizes=size, threshold=threshold)
            assert isinstance(ours.map, PanopticMap)
            theirs = [(info["id"] + 1, info["label_id"]) for info in expected["segments_info"]]
            assert [(segment.id, segment.category_id) for segment in ours.map.segments] == theirs
            np.testing.assert_array_equal(ours.map.ids, expected["segmentation"].int() + 1)
            segments += len(theirs)
        # transformers stretches the padding over the image in semantic maps, but not in its other results.
        sums = torch.einsum(
            "bqc,bqhw->bchw",
            output.class_queries_logits.softmax(-1)[..., :-1],
            torch.nn.functional.interpolate(output.masks_queries_logits, size=(64, 64), mode="bilinear").sigmoid(),
        )
        (unpadded,) = processor.unpad_image(sums, size, processor.size)
        assert isinstance(semantic.map, SemanticMap)
        np.testing.assert_array_equal(semantic.map.ids, unpadded.argmax(0))
        if image.width == image.height:
            output.patch_offsets = None
            (classes,) = processor.post_process_semantic_segmentation(output, target_sizes=size)
            np.testing.assert_array_equal(semantic.map.ids, classes)
        labels |= set(found.labels)
    assert segments > 3
    assert len(labels) > 2


@pytest.mark.slow
def test_commands(name: str, data: Path, detr: Detr) -> None:
    weights = ("--weights", folder_of(name))
    image = data / "val" / "000000.png"
    assert detr("predict", image, *weights, "--threshold", 0.1, "--json").ok().json["images"][0]["detections"]
    shown = detr("eval", data, *weights, "--json").ok()
    assert {"AP", "AR100"} <= shown.json["masks"].keys()
    detr("predict", image, *weights, "--format", "panoptic", "--threshold", 0.1, "--out", "maps").ok()
    assert json.loads(Path("maps/panoptic.json").read_text())["annotations"]
    detr("predict", image, *weights, "--size", 96).fails(2, "64 pixels long", "--size 64")


def test_unsupported_folders(name: str, tmp_path: Path) -> None:
    cases: dict[str, dict[str, Any]] = {
        "split for semantic segmentation": {"do_split_image": True, "do_pad": False},
        "both sides must be 64 pixels long": {"size": {"shortest_edge": 128, "longest_edge": 128}},
        "a shorter side of 64.*both sides": {"do_pad": False},
    }
    for index, (reason, facts) in enumerate(cases.items()):
        with pytest.raises(WeightsError, match=reason):
            load_checkpoint(changed(folder_of(name), tmp_path / str(index), PROCESSOR, **facts))


def test_images_of_an_exact_size(name: str, tmp_path: Path) -> None:
    """Without padding."""
    exact = changed(folder_of(name), tmp_path / "exact", PROCESSOR, do_pad=False, size={"height": 64, "width": 64})
    checkpoint, image = load_checkpoint(exact), next(images())
    pixels = processor_of(name, do_pad=False, size={"height": 64, "width": 64})(images=image, return_tensors="pt")
    assert torch.equal(prepare(image, checkpoint.preprocessing), pixels["pixel_values"][0])
    with pytest.raises(UsageError, match="max_size"):
        checkpoint.resized(None, 80)
