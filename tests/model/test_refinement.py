"""detr-tiny: its size, and boxes refined layer by layer."""

import math

import pytest
import torch
from torch import Tensor

from detrcli.architectures.tiny import DETR_TINY, TinyConfig
from detrcli.config import LossConfig
from detrcli.model.detr import tokens
from detrcli.model.refinement import IterativeRefinementDETR, initial_reference_boxes
from detrcli.resize import ShortestEdge
from detrcli.structures import Batch, Target


@pytest.fixture
def tiny() -> IterativeRefinementDETR:
    torch.manual_seed(0)
    return DETR_TINY.build(TinyConfig()).eval()


@pytest.fixture
def batch() -> Batch:
    images = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    return Batch(images, torch.zeros(2, 128, 128, dtype=torch.bool))


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_size_and_shapes(norm: str, batch: Batch) -> None:
    model = DETR_TINY.build(TinyConfig(norm=norm)).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) <= 2_000_000
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        output = model(batch)
        assert model.backbone(batch.images)[-1].shape[-2:] == (16, 16)
    assert [group.name for group in output.groups] == ["decoder"]
    assert output.decoder.logits.shape == (3, 2, 25, 6)
    assert output.decoder.boxes.shape == (3, 2, 25, 4)
    assert ((output.decoder.boxes > 0) & (output.decoder.boxes < 1)).all()
    assert DETR_TINY.preprocessing.resize == ShortestEdge(128, 213)


def test_a_query_first_attends_to_its_surroundings(tiny: IterativeRefinementDETR) -> None:
    """With cells that differ by position alone, and on average over heads, the highest weight is near the center."""
    attention = tiny.decoder.layers[0].cross_attention
    position = tokens(tiny.position(torch.zeros(1, 128, 16, 16), None))  # (1, 256, C)
    _, weights = attention(tiny.locate(tiny.queries["references"][None]), position, position)  # (1, Q, 256)
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    cells = torch.stack([columns, rows], -1).flatten(0, 1)  # (256, 2)
    centers = tiny.queries["references"].sigmoid()[:, :2] * 16 - 1  # in cells, counted from 0
    assert (cells[weights[0].argmax(-1)] - centers).abs().max() <= 1


def test_boxes_begin_as_the_references_and_corrections_add_up(tiny: IterativeRefinementDETR, batch: Batch) -> None:
    """A constant head moves a box by the same amount in every layer, before the sigmoid."""
    step = torch.tensor([0.1, -0.2, 0.3, -0.4])
    with torch.no_grad():
        boxes = tiny(batch).decoder.boxes
        assert torch.equal(boxes, tiny.queries["references"].sigmoid().expand(3, 2, -1, -1))
        tiny.box_head.layers[-1].bias.copy_(step)
        for layer, boxes in enumerate(tiny(batch).decoder.boxes, start=1):
            expected = (tiny.queries["references"] + layer * step).sigmoid().expand(2, -1, -1)
            torch.testing.assert_close(boxes, expected)


def test_a_layer_attends_from_the_box_of_the_layer_before(tiny: IterativeRefinementDETR, batch: Batch) -> None:
    """The correction of the first layer changes the logits of the second."""
    with torch.no_grad():
        still = tiny(batch).decoder.logits
        tiny.box_head.layers[-1].bias.fill_(0.5)
        moved = tiny(batch).decoder.logits
    assert torch.equal(still[0], moved[0])
    assert not torch.equal(still[1], moved[1])


def test_the_position_of_a_query_is_that_of_its_cell(tiny: IterativeRefinementDETR) -> None:
    """Rows come first, as for cells; height and width follow."""
    cells = tiny.position(torch.zeros(1, 128, 4, 8), None)  # (1, C, 4, 8)
    box = torch.tensor([5 / 8, 3 / 4, 0.2, 0.3]).logit()  # column 5 of 8, row 3 of 4, counted from 1
    codes: list[Tensor] = []
    with tiny.place.register_forward_pre_hook(lambda _, args: codes.append(args[0])):
        tiny.locate(box[None, None])
    place, size = codes[0][0, 0].chunk(2)
    torch.testing.assert_close(place, cells[0, :, 2, 4], rtol=0, atol=1e-4)
    height, width = size.chunk(2)
    assert height[0].item() == pytest.approx(math.sin(0.3 * 8 * math.pi), abs=1e-5)
    assert width[0].item() == pytest.approx(math.sin(0.2 * 8 * math.pi), abs=1e-5)


def test_gradients_reach_every_parameter(tiny: IterativeRefinementDETR, batch: Batch) -> None:
    for last in (tiny.box_head.layers[-1], tiny.place[-1]):  # zero at the start
        torch.nn.init.normal_(last.weight, std=0.1)
    targets = [Target(torch.tensor([1, 3]), torch.rand(2, 4) * 0.3 + 0.3) for _ in range(2)]
    loss = DETR_TINY.make_loss(TinyConfig(), LossConfig())
    loss.compute_loss(tiny.train()(batch), targets).total.backward()
    for name, parameter in tiny.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_boxes_are_detached_between_layers(tiny: IterativeRefinementDETR, batch: Batch) -> None:
    """With the initial, constant box head, only the first layer's boxes have a gradient for the references."""
    output = tiny(batch)
    assert torch.autograd.grad(output.decoder.boxes[0].sum(), tiny.queries["references"], retain_graph=True)[0].any()
    assert not torch.autograd.grad(output.last.boxes.sum(), tiny.queries["references"])[0].any()


@pytest.mark.parametrize("queries", [1, 25, 100])
def test_reference_boxes_cover_the_image(queries: int) -> None:
    """No two are closer than half the distance in a square grid, and fewer boxes are the first of more."""
    boxes = initial_reference_boxes(queries).sigmoid()
    assert ((boxes > 0.04) & (boxes < 0.96)).all()
    if queries > 1:
        assert torch.pdist(boxes[:, :2]).min() > 0.5 / math.sqrt(queries)
    torch.testing.assert_close(initial_reference_boxes(queries), initial_reference_boxes(200)[:queries])
