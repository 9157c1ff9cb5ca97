"""Deformable attention by hand and by finite differences; levels and padding; proposals; denoising without leaks."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from small import DEFORMABLE, DINO_CONFIG, architecture_of
from torch import Tensor

from detrcli.architectures import preset
from detrcli.data.preprocessing import collate
from detrcli.model.deformable_transformer import DeformableAttention, sample
from detrcli.model.denoising import Denoising, Noise
from detrcli.model.position import SinePosition
from detrcli.model.proposals import anchors
from detrcli.model.pyramid import Pyramid, PyramidInput
from detrcli.structures import Batch, Target

SHAPES = ((3, 5), (2, 2))
STARTS = (0, 15)  # of the levels in the tokens
S = 19


def by_hand(values: Tensor, points: Tensor, weights: Tensor) -> Tensor:
    """Sample point by point, from the cells around a point by their distance."""
    sampled = torch.zeros(*points.shape[:3], values.shape[-1], dtype=values.dtype)
    for index in itertools.product(*map(range, weights.shape)):
        b, q, head, level, _ = index
        h, w = SHAPES[level]
        x, y = (points[index] * torch.tensor([w, h]) - 0.5).tolist()
        for column, row in itertools.product(range(w), range(h)):
            share = max(0, 1 - abs(x - column)) * max(0, 1 - abs(y - row))
            sampled[b, q, head] += share * weights[index] * values[b, STARTS[level] + row * w + column, head]
    return sampled


def drawn(seed: int, images: int = 2, queries: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    B, Q, heads, P, D = images, queries, 2, 2, 4
    values = torch.randn(B, S, heads, D, generator=g, dtype=torch.float64)
    points = 1.4 * torch.rand(B, Q, heads, 2, P, 2, generator=g, dtype=torch.float64) - 0.2  # some outside
    weights = torch.rand(B, Q, heads, 2, P, generator=g, dtype=torch.float64)
    return values, points, weights


@pytest.mark.parametrize("seed", range(5))
def test_sampling_by_hand(seed: int) -> None:
    values, points, weights = drawn(seed)
    torch.testing.assert_close(sample(values, SHAPES, points, weights), by_hand(values, points, weights))


def test_sampling_in_bfloat16_is_close_to_float32() -> None:
    """With many points and maps that are not contiguous."""
    torch.manual_seed(0)
    values, points = torch.randn(1, 400, 4, 32), torch.rand(1, 30, 4, 1, 4, 2) * 1.1 - 0.05
    weights = torch.rand(1, 30, 4, 1, 4)
    expected = sample(values, [(20, 20)], points, weights)
    half = sample(values.bfloat16(), [(20, 20)], points, weights)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0, atol=0.05)


def test_gradients_of_sampling() -> None:
    values, points, weights = (value.requires_grad_() for value in drawn(7, images=1, queries=2))
    assert torch.autograd.gradcheck(lambda *inputs: sample(inputs[0], SHAPES, *inputs[1:]), (values, points, weights))


def pyramid_of(dim: int, padding: Tensor | None = None, images: int = 2) -> Pyramid:
    g = torch.Generator().manual_seed(1)
    tokens, position = (torch.randn(images, S, dim, generator=g) for _ in range(2))
    return Pyramid(tokens, position, padding, SHAPES, torch.ones(images, 2, 2))


@pytest.mark.parametrize("numbers", [2, 4])
def test_gradients_of_attention(numbers: int) -> None:
    """Through offsets, weights, values and references, which are points or boxes."""
    torch.manual_seed(0)
    attention = DeformableAttention(8, 2, 2, 2).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    pyramid = pyramid_of(8, images=1)
    queries = torch.randn(1, 2, 8, dtype=torch.float64, requires_grad=True)
    references = (0.2 + 0.6 * torch.rand(1, 2, 2, numbers, dtype=torch.float64)).requires_grad_()
    memory = torch.randn(1, S, 8, dtype=torch.float64, requires_grad=True)
    inputs = (queries, references, memory, *attention.parameters())
    assert torch.autograd.gradcheck(lambda *inputs: attention(*inputs[:3], pyramid), inputs)


def test_initial_attention_samples_in_all_directions() -> None:
    attention = DeformableAttention(32, 8, 2, 4)
    points, weights = attention.sampling(torch.randn(2, 1, 32), torch.full((2, 1, 2, 2), 0.5), pyramid_of(32))
    cells = (points - 0.5) * torch.tensor([(w, h) for h, w in SHAPES])[:, None]  # (2, 1, 8, 2, 4, 2)
    torch.testing.assert_close(cells.abs().amax(-1)[0, 0, 0, 0], torch.tensor([1.0, 2.0, 3.0, 4.0]))
    torch.testing.assert_close(cells[0, 0, 0, 0, 0], torch.tensor([1.0, 0.0]))  # the first head: to the right
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 8))


def test_padding_in_the_pyramid_and_the_encoder() -> None:
    model = architecture_of(DEFORMABLE).build(DEFORMABLE).eval()
    batch = collate([torch.randn(3, 64, 96), torch.randn(3, 128, 128)])
    pyramid = model.pyramid(model.backbone(batch.images), batch)
    assert pyramid.padding is not None
    inside = ~pyramid.padding[0, :256].view(16, 16)
    assert inside[:8, :12].all()
    assert inside.sum() == 8 * 12
    torch.testing.assert_close(pyramid.valid_ratios[0, 0], torch.tensor([12 / 16, 8 / 16]))
    centers = pyramid.cell_centers()[0, :256].view(16, 16, 2)
    torch.testing.assert_close(centers[7, 11], torch.tensor([11.5 / 12, 7.5 / 8]))
    # The content of padded tokens has no effect on the others.
    with torch.no_grad():
        first = model.encoder(pyramid)
        noisy = torch.where(pyramid.padding[..., None], torch.randn_like(pyramid.tokens), pyramid.tokens)
        second = model.encoder(replace(pyramid, tokens=noisy))
    torch.testing.assert_close(first[~pyramid.padding], second[~pyramid.padding])


def test_levels_are_the_backbones_maps_and_halves_of_the_last() -> None:
    input_ = PyramidInput([8, 16], 4, 32, SinePosition(32, centered=True))
    maps = torch.randn(1, 8, 9, 13), torch.randn(1, 16, 5, 7)
    pyramid = input_(maps, Batch(torch.zeros(1, 3, 72, 104), None))
    assert pyramid.shapes == [(9, 13), (5, 7), (3, 4), (2, 2)]
    assert pyramid.tokens.shape == pyramid.position.shape == (1, 9 * 13 + 35 + 12 + 4, 32)
    assert pyramid.padding is None


def test_anchors_double_with_each_level() -> None:
    logits, valid = anchors(pyramid_of(8))
    boxes = logits.sigmoid()
    torch.testing.assert_close(boxes[0, 0], torch.tensor([0.1, 1 / 6, 0.05, 0.05]))
    torch.testing.assert_close(boxes[0, -1], torch.tensor([0.75, 0.75, 0.1, 0.1]))
    assert valid.all()
    padding = torch.zeros(2, S, dtype=torch.bool)
    padding[1, 3] = True
    logits, valid = anchors(pyramid_of(8, padding))
    assert logits[1, 3].isinf().all()
    assert valid.sum() == 2 * S - 1


def test_anchors_of_some_cells() -> None:
    """Their sides are 1.5 cells of the image without its padding, at most 0.9 of it."""
    pyramid = replace(pyramid_of(8), valid_ratios=torch.tensor([[[1.0, 1.0]] * 2, [[0.8, 1.0]] * 2]))
    sides = anchors(pyramid, cells=1.5)[0].sigmoid()[..., 2:]
    torch.testing.assert_close(sides[0, 7], torch.tensor([1.5 / 5, 1.5 / 3]))
    torch.testing.assert_close(sides[1, 6], torch.tensor([1.5 / 4, 1.5 / 3]))
    largest = anchors(pyramid, cells=2.0)[0].sigmoid()[0, 15:, 2:]
    torch.testing.assert_close(largest, torch.full_like(largest, 0.9))


def small_targets() -> list[Target]:
    g = torch.Generator().manual_seed(3)
    return [Target(torch.randint(3, (n,), generator=g), 0.3 + 0.4 * torch.rand(n, 4, generator=g)) for n in (3, 1)]


def test_denoising_queries_leak_nothing() -> None:
    """Noise affects neither the matching queries nor the other denoising groups."""
    torch.manual_seed(0)
    model: Any = architecture_of(DINO_CONFIG).build(DINO_CONFIG).eval()
    for layer in model.decoder:  # at the start all queries sample alike
        torch.nn.init.normal_(layer.cross_attention.sampling_offsets.weight, std=0.1)
    batch, targets = Batch(torch.randn(2, 3, 64, 96), None), small_targets()
    model.denoising.number = 8  # two groups of at most 3 objects
    per_group = 2 * 3
    number = 4 * 4  # half-groups x objects
    first, second = (model.denoising.draw(number, torch.device("cpu")) for _ in range(2))

    def predictions(noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
        model.denoising.draw = lambda _number, _device: noise
        with torch.no_grad():
            output = model(batch, targets)
        denoising, _ = output.others
        return output.decoder.logits, output.decoder.boxes, denoising.boxes

    in_first_group = torch.arange(number) < 2 * 4
    pairs = zip(vars(first).values(), vars(second).values(), strict=True)
    mixed = Noise(*(torch.where(in_first_group.view(-1, *[1] * (a.dim() - 1)), a, b) for a, b in pairs))
    a, b, c = predictions(first), predictions(second), predictions(mixed)
    with torch.no_grad():
        alone = model(batch)
    torch.testing.assert_close(a[:2], b[:2], rtol=0, atol=1e-6)
    torch.testing.assert_close(alone.decoder.boxes, a[1], rtol=0, atol=1e-6)
    assert (a[2] - b[2]).abs().max() > 1e-3
    assert (a[2] - c[2])[:, :, :per_group].abs().max() <= 1e-6
    assert (a[2] - c[2])[:, :, per_group:].abs().max() > 1e-3


def test_denoising_without_objects() -> None:
    """The group exists, so that all processes agree; the loss reaches every parameter."""
    architecture = architecture_of(DINO_CONFIG)
    model = architecture.build(DINO_CONFIG).train()
    targets = [Target(torch.zeros(0, dtype=torch.long), torch.zeros(0, 4)) for _ in range(2)]
    output = model(Batch(torch.randn(2, 3, 64, 64), None), targets)
    assert [group.name for group in output.others] == ["denoising", "proposals"]
    loss = architecture.make_loss(DINO_CONFIG, architecture.loss)
    normalizers = loss.normalizers(output, [targets, small_targets()])
    loss.compute_loss(output, targets, normalizers).total.backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    # 3 + 1 objects of the other batch, in its number of groups.
    assert normalizers["denoising"]["l1"] == 4 * model.denoising.groups(3)


def test_without_negatives_a_group_has_every_object_once() -> None:
    denoising = Denoising(32, 3, number=6, label_noise=0.2, box_noise=0.4, contrastive=False)
    queries = denoising(small_targets(), 5)
    assert queries.contents.shape == (2, 2 * 3, 32)
    assert queries.pairs.tolist() == [[0] * 6 + [1] * 2, [0, 1, 2, 3, 4, 5, 0, 3], [0, 1, 2, 0, 1, 2, 3, 3]]


def test_without_a_decoder_the_proposals_are_the_predictions() -> None:
    config = replace(preset("dino-tiny").config, decoder_layers=0, denoising=0)
    architecture = architecture_of(config)
    model = architecture.build(config)
    output = model(Batch(torch.randn(2, 3, 64, 96), None), small_targets())
    assert output.others == ()
    assert output.decoder.logits.shape == (1, 2, 8 * 12, config.classes)
    assert architecture.make_loss(config, architecture.loss).compute_loss(output, small_targets()).total.isfinite()
    inspectable = architecture.inspect(model)
    assert inspectable.abilities == frozenset()
    assert [stage.name for stage in inspectable.stages()][-3:] == ["proposals", "class head", "box head"]
