"""The way of a picture is read off the model, and its shapes are those of the paper."""

import pytest
import torch
from small import CONFIG, TINY, small_weights

from detrcli.inspection.walk import shapes_at, walk
from detrcli.variants import VARIANTS, build
from detrcli.variants.detr import DETRConfig
from detrcli.variants.variant import ModelConfig


def test_the_published_model_at_800_x_600() -> None:
    with torch.device("meta"):
        model = build(VARIANTS["detr-r50"]).eval()
        stops = walk(model, torch.empty(3, 800, 600))
    assert {stop.name: stop.shape for stop in stops} == {
        "picture": (3, 800, 600),
        "backbone": (2048, 25, 19),
        "projection": (256, 25, 19),
        "position": (256, 25, 19),
        "encoder": (475, 256),
        "decoder": (100, 256),
        "class head": (100, 92),
        "box head": (100, 4),
        "answers": (100, 2),
    }
    said = {stop.name: stop.what for stop in stops}
    assert "32 x 32 pixels" in said["backbone"]
    assert "in 6 layers" in said["encoder"]
    assert "91 classes" in said["class head"]


@pytest.mark.parametrize("config", [CONFIG, TINY], ids=["detr", "detr-tiny"])
def test_shapes_at_another_size_are_those_of_a_run_at_it(config: ModelConfig) -> None:
    model = small_weights(config).model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert shapes_at(model, 70, 97) == [stop.shape for stop in walk(model, torch.zeros(3, 70, 97))]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_size_that_a_model_cannot_see() -> None:
    with torch.device("meta"):
        model = build(VARIANTS["detr-r50"]).eval()
        learned = build(DETRConfig(position="learned")).eval()
    assert shapes_at(model, 2000, 320) is not None
    assert shapes_at(learned, 2000, 320) is None


@pytest.mark.parametrize(("height", "width"), [(1, 266), (266, 1), (160, 160), (129, 97)])
def test_the_size_of_a_cell_does_not_depend_on_the_picture(height: int, width: int) -> None:
    backbone = walk(small_weights(TINY).model(), torch.zeros(3, height, width))[1]
    assert "each cell of 8 x 8 pixels" in backbone.what
