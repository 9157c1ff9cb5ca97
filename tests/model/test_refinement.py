"""detr-tiny: sizes, padding, and boxes that layers refine."""

import math
from collections.abc import Iterator, Sequence

import pytest
import torch
from small import architecture_of
from torch import Tensor, nn

from detrcli.architectures import detr, preset
from detrcli.architectures.tiny import ARCHITECTURE, TinyConfig
from detrcli.config import LossConfig
from detrcli.errors import UsageError
from detrcli.model.backbone import Backbone
from detrcli.model.detr import tokens
from detrcli.model.refinement import IterativeRefinementDETR, initial_reference_boxes
from detrcli.resize import ShortestEdge
from detrcli.structures import Batch, Target


@pytest.fixture
def tiny() -> IterativeRefinementDETR:
    torch.manual_seed(0)
    return ARCHITECTURE.build(TinyConfig()).eval()


def pictures(count: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, 128, 128, generator=generator)
    return Batch(images, torch.zeros(count, 128, 128, dtype=torch.bool))


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_size_and_shapes(norm: str) -> None:
    model = ARCHITECTURE.build(TinyConfig(norm=norm)).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) <= 2_000_000
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        output = model(pictures())
        assert model.backbone(pictures().images)[-1].shape[-2:] == (16, 16)
    assert [group.name for group in output.groups] == ["decoder"]
    assert output.decoder.logits.shape == (3, 2, 25, 6)
    assert output.decoder.boxes.shape == (3, 2, 25, 4)
    assert ((output.decoder.boxes > 0) & (output.decoder.boxes < 1)).all()


def test_its_norms_are_learned() -> None:
    with pytest.raises(UsageError, match="norm = 'frozen' is not known: it is one of 'batch', 'group'"):
        TinyConfig(norm="frozen")


def test_it_sees_small_pictures() -> None:
    assert architecture_of(TinyConfig()).preprocessing.resize == ShortestEdge(128, 213)
    assert architecture_of(preset("detr-r50").config).preprocessing.resize == ShortestEdge(800, 1333)


class Given(Backbone):
    """Features instead of a backbone."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features

    def stem(self) -> Sequence[nn.Module]:
        return ()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.features,)


@torch.no_grad()
def from_features(model: IterativeRefinementDETR, features: Tensor, padding: Tensor) -> Iterator[Tensor]:
    model.backbone = Given(features)
    pixels = padding.repeat_interleave(8, 1).repeat_interleave(8, 2)
    decoder = model(Batch(torch.zeros(1, 3, *pixels.shape[1:]), pixels)).decoder
    yield from (decoder.logits, decoder.boxes)


def test_transformer_ignores_what_is_in_padded_cells(tiny: IterativeRefinementDETR) -> None:
    """The same features with padded cells of any content, and with no padded cells at all."""
    move_boxes(tiny)
    g = torch.Generator().manual_seed(1)
    channels = tiny.backbone.channels[-1]
    features = torch.randn(1, channels, 6, 7, generator=g)
    padded = torch.zeros(1, channels, 9, 10)
    padded[..., :6, :7] = features
    outside = torch.ones(1, 9, 10, dtype=torch.bool)
    outside[..., :6, :7] = False
    noisy = torch.where(outside[:, None], 100 * torch.randn(padded.shape, generator=g), padded)

    alone = list(from_features(tiny, features, torch.zeros(1, 6, 7, dtype=torch.bool)))
    for cells in (padded, noisy):
        for ours, expected in zip(from_features(tiny, cells, outside), alone, strict=True):
            torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)


def test_a_query_begins_by_looking_at_what_is_around_it(tiny: IterativeRefinementDETR) -> None:
    """Of an empty picture, whose cells differ by their place alone: near its centre, on average over heads."""
    attention = tiny.decoder.layers[0].cross_attention
    position = tokens(tiny.position(torch.zeros(1, 128, 16, 16), None))  # (1, 256, C)
    looking = tiny.locate(tiny.queries.references[None])
    _, weights = attention(looking, position, position)  # (1, Q, 256)
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    cells = torch.stack([columns, rows], -1).flatten(0, 1)  # (256, 2)
    found = cells[weights[0].argmax(-1)]
    centres = tiny.queries.references.sigmoid()[:, :2] * 16 - 1  # in cells, counted from 0
    assert (found - centres).abs().max() <= 1


def move_boxes(model: IterativeRefinementDETR) -> None:
    """A box head that does something, which at its start it does not."""
    torch.nn.init.normal_(model.box_head.layers[-1].weight, std=0.1)


def test_boxes_begin_as_the_references(tiny: IterativeRefinementDETR) -> None:
    with torch.no_grad():
        boxes = tiny(pictures()).decoder.boxes
    assert torch.equal(boxes, tiny.queries.references.sigmoid().expand(3, 2, -1, -1))


def test_layers_add_up(tiny: IterativeRefinementDETR) -> None:
    """A head that always says the same moves a box by as much in every layer, before the sigmoid."""
    step = torch.tensor([0.1, -0.2, 0.3, -0.4])
    with torch.no_grad():
        tiny.box_head.layers[-1].bias.copy_(step)
        for layer, boxes in enumerate(tiny(pictures()).decoder.boxes, start=1):
            expected = (tiny.queries.references + layer * step).sigmoid().expand(2, -1, -1)
            torch.testing.assert_close(boxes, expected)


def test_a_layer_looks_from_where_the_last_one_went(tiny: IterativeRefinementDETR) -> None:
    """What the first layer moves, the second one sees, in the logits too."""
    tiny.box_head.layers[-1].bias.data.fill_(0)
    with torch.no_grad():
        still = tiny(pictures()).decoder.logits
        tiny.box_head.layers[-1].bias.data.fill_(0.5)
        moved = tiny(pictures()).decoder.logits
    assert torch.equal(still[0], moved[0])
    assert not torch.equal(still[1], moved[1])


def test_a_query_has_the_code_of_the_cell_that_it_is_at(tiny: IterativeRefinementDETR) -> None:
    """Rows first, as the cells have it: height and width follow."""
    cells = tiny.position(torch.zeros(1, 128, 4, 8), None)  # (1, C, 4, 8)
    box = torch.tensor([5 / 8, 3 / 4, 0.2, 0.3]).logit()  # column 5 of 8, row 3 of 4, counted from 1
    codes: list[Tensor] = []
    hook = tiny.place.register_forward_pre_hook(lambda _, args: codes.append(args[0]))
    tiny.locate(box[None, None])
    hook.remove()
    place, size = codes[0][0, 0].chunk(2)
    torch.testing.assert_close(place, cells[0, :, 2, 4], rtol=0, atol=1e-4)
    height, width = size.chunk(2)
    assert height[0].item() == pytest.approx(math.sin(0.3 * 8 * math.pi), abs=1e-5)
    assert width[0].item() == pytest.approx(math.sin(0.2 * 8 * math.pi), abs=1e-5)


def test_gradients_reach_everything(tiny: IterativeRefinementDETR) -> None:
    """From each group by itself to the backbone, and to the references from the first."""
    move_boxes(tiny)
    torch.nn.init.normal_(tiny.place[-1].weight, std=0.1)
    targets = [Target(torch.tensor([1, 3]), torch.rand(2, 4) * 0.3 + 0.3) for _ in range(2)]
    loss = detr.ARCHITECTURE.make_loss(TinyConfig(), LossConfig())
    loss.compute_loss(tiny.train()(pictures()), targets).total.backward()
    for name, parameter in tiny.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_layer_is_not_charged_for_the_steps_of_those_before(tiny: IterativeRefinementDETR) -> None:
    """A later box says nothing to the references except by how the query looks from them."""
    output = tiny(pictures())  # the box head's start: no way through its hidden states
    assert torch.autograd.grad(output.decoder.boxes[0].sum(), tiny.queries.references, retain_graph=True)[0].any()
    later = torch.autograd.grad(output.last.boxes.sum(), tiny.queries.references)[0]
    assert not later.any()


@pytest.mark.parametrize("queries", [1, 25, 100])
def test_references_spread_over_the_picture(queries: int) -> None:
    """No two lie closer than half of what a square grid would give, and fewer are the first of more."""
    boxes = initial_reference_boxes(queries).sigmoid()
    assert ((boxes > 0.04) & (boxes < 0.96)).all()
    if queries > 1:
        distances = torch.pdist(boxes[:, :2])
        assert distances.min() > 0.5 / math.sqrt(queries)
    torch.testing.assert_close(initial_reference_boxes(queries), initial_reference_boxes(200)[:queries])
