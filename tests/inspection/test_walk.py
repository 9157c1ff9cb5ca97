"""The way of a picture is read off the model, and its shapes are those of the paper."""

import pytest
import torch
from small import CONFIG, TINY, small_weights

from detrcli.architectures import architecture_of, preset
from detrcli.architectures.detr import DETRConfig
from detrcli.checkpoints.checkpoint import Checkpoint, classes_by_index
from detrcli.config import LossConfig, ModelConfig, Preprocessing
from detrcli.inference.detector import Detector
from detrcli.inspection.walk import shapes_at, walk
from detrcli.structures import Output, QueryGroup


def hollow(config: ModelConfig) -> Detector:
    """A detector whose tensors have shapes and no numbers."""
    with torch.device("meta"):
        model = architecture_of(config).build(config).eval()
    classes = classes_by_index(config.classes)
    checkpoint = Checkpoint("hollow", config, model.state_dict(), classes, Preprocessing(), LossConfig())
    return Detector(checkpoint, torch.device("meta"), model=model)


def test_the_published_model_at_800_x_600() -> None:
    stops = walk(hollow(preset("detr-r50")), torch.empty(3, 800, 600, device="meta"))
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
    detector = Detector(small_weights(config), "cpu")
    model = detector.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert shapes_at(detector, 70, 97) == [stop.shape for stop in walk(detector, torch.zeros(3, 70, 97))]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_size_that_a_model_cannot_see() -> None:
    assert shapes_at(hollow(preset("detr-r50")), 2000, 320) is not None
    assert shapes_at(hollow(DETRConfig(position="learned")), 2000, 320) is None


def test_other_groups_are_told_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Detector(small_weights(TINY), "cpu")
    forward = type(detector.model).forward

    def with_proposals(model: torch.nn.Module, batch: object, targets: object = None) -> Output:
        decoder = forward(model, batch, targets).decoder
        proposals = QueryGroup("encoder", decoder.logits[:1, :, :7], decoder.boxes[:1, :, :7])
        return Output(decoder, (proposals,))

    monkeypatch.setattr(type(detector.model), "forward", with_proposals)
    *_, told, answers = walk(detector, torch.zeros(3, 64, 64))
    assert (told.name, told.shape) == ("encoder", (7, 4))
    assert "7 further queries" in told.what
    assert answers.name == "answers"


@pytest.mark.parametrize(("height", "width"), [(1, 266), (266, 1), (160, 160), (129, 97)])
def test_the_size_of_a_cell_does_not_depend_on_the_picture(height: int, width: int) -> None:
    backbone = walk(Detector(small_weights(TINY), "cpu"), torch.zeros(3, height, width))[1]
    assert "each cell of 8 x 8 pixels" in backbone.what
