"""The steps of a model are recorded from a run, and their shapes are those of the paper."""

import re
from typing import Any

import pytest
import torch
from small import BOTH, TINY, add_proposals, small_weights

from detrcli.architectures import preset
from detrcli.architectures.architecture import Architecture
from detrcli.architectures.detr import ARCHITECTURE, DETRConfig
from detrcli.checkpoints.checkpoint import Checkpoint, classes_by_index
from detrcli.config import LossConfig, ModelConfig, Preprocessing
from detrcli.inference.detector import Detector
from detrcli.inspection.walk import feature_maps, shapes_at, trace_steps


def on_meta(architecture: Architecture[Any], config: ModelConfig) -> Detector:
    """A detector whose tensors have shapes and no values."""
    with torch.device("meta"):
        model = architecture.build(config).eval()
    classes = classes_by_index(config.classes)
    checkpoint = Checkpoint("meta", architecture, config, model.state_dict(), classes, Preprocessing(), LossConfig())
    return Detector(checkpoint, torch.device("meta"), model=model)


DETR = {
    "image": (3, 800, 600),
    "backbone": (2048, 25, 19),
    "projection": (256, 25, 19),
    "position": (256, 25, 19),
    "encoder": (475, 256),
    "decoder": (100, 256),
    "class head": (100, 92),
    "box head": (100, 4),
    "selection": (100, 2),
}
TOKENS = 100 * 75 + 50 * 38 + 25 * 19 + 13 * 10
DINO = {
    "image": (3, 800, 600),
    "backbone": (2048, 25, 19),
    "levels": (TOKENS, 256),
    "encoder": (TOKENS, 256),
    "proposals": (TOKENS, 4),
    "decoder": (900, 256),
    "class head": (900, 91),
    "box head": (900, 4),
}


@pytest.mark.parametrize(
    ("name", "shapes", "numbers"),
    [
        ("detr-r50", DETR, {"backbone": "32 x 32", "encoder": "6", "decoder": "6", "class head": "91"}),
        ("dino-r50-4scale", DINO, {"levels": "4", "encoder": "6.* 4 ", "decoder": "6.* 4 ", "class head": "91"}),
    ],
)
def test_published_models_at_800_x_600(name: str, shapes: dict[str, tuple[int, ...]], numbers: dict[str, str]) -> None:
    steps = trace_steps(on_meta(*preset(name)), torch.empty(3, 800, 600, device="meta"))[: len(shapes)]
    assert {step.name: step.shape for step in steps} == shapes
    for step in steps:
        assert re.search(numbers.get(step.name, ""), step.meaning), step.meaning


@BOTH
def test_shapes_at_another_size_are_those_of_a_run(config: ModelConfig) -> None:
    detector = Detector(small_weights(config), "cpu")
    model = detector.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert shapes_at(detector, 70, 97) == [step.shape for step in trace_steps(detector, torch.zeros(3, 70, 97))]
    maps = feature_maps(detector, torch.zeros(3, 70, 97))
    assert list(maps) == ["backbone", "projection", "position"]
    assert maps["projection"].shape[1:] == maps["backbone"].shape[1:]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_size_beyond_learned_positions() -> None:
    assert shapes_at(on_meta(*preset("detr-r50")), 2000, 320) is not None
    assert shapes_at(on_meta(ARCHITECTURE, DETRConfig(position="learned")), 2000, 320) is None


def test_further_query_groups_are_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Detector(small_weights(TINY), "cpu")
    add_proposals(monkeypatch, detector.model)
    *_, proposals, selection = trace_steps(detector, torch.zeros(3, 64, 64))
    assert (proposals.name, proposals.shape) == ("encoder", (7, 4))
    assert "7" in proposals.meaning
    assert selection.name == "selection"


@pytest.mark.parametrize(("height", "width"), [(1, 266), (266, 1), (160, 160), (129, 97)])
def test_the_size_of_a_cell_does_not_depend_on_the_image(height: int, width: int) -> None:
    backbone = trace_steps(Detector(small_weights(TINY), "cpu"), torch.zeros(3, height, width))[1]
    assert "8 x 8 pixels" in backbone.meaning
