"""Sampled attention by hand and by finite differences; levels and padding; proposals; denoising without leaks."""

import math
from dataclasses import replace

import pytest
import torch
from small import DEFORMABLE, DINO_CONFIG, architecture_of
from torch import Tensor

from detrcli.architectures import preset
from detrcli.data.batching import collate
from detrcli.losses.loss import StepNormalizers
from detrcli.model.deformable_attention import DeformableAttention, sample
from detrcli.model.denoising import Denoising, Noise
from detrcli.model.dino import DINO
from detrcli.model.position import SinePosition
from detrcli.model.proposals import anchors
from detrcli.model.pyramid import Pyramid, PyramidInput
from detrcli.structures import Batch, Target

SHAPES = ((3, 5), (2, 2))
S = sum(h * w for h, w in SHAPES)


def by_hand(values: Tensor, points: Tensor, weights: Tensor, shapes: tuple[tuple[int, int], ...] = SHAPES) -> Tensor:
    """One number after the other: a point takes from the four cells around it by their nearness."""
    B, Q, heads, _, P, _ = points.shape
    found = torch.zeros(B, Q, heads, values.shape[-1], dtype=values.dtype)
    starts = [0]
    for h, w in shapes:
        starts.append(starts[-1] + h * w)
    for b in range(B):
        for q in range(Q):
            for head in range(heads):
                for level, (h, w) in enumerate(shapes):
                    for p in range(P):
                        x = float(points[b, q, head, level, p, 0]) * w - 0.5
                        y = float(points[b, q, head, level, p, 1]) * h - 0.5
                        for column in (math.floor(x), math.floor(x) + 1):
                            for row in (math.floor(y), math.floor(y) + 1):
                                if 0 <= column < w and 0 <= row < h:
                                    near = (1 - abs(x - column)) * (1 - abs(y - row))
                                    cell = values[b, starts[level] + row * w + column, head]
                                    found[b, q, head] += near * float(weights[b, q, head, level, p]) * cell
    return found


def drawn(seed: int, images: int = 2, queries: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    B, Q, heads, P, D = images, queries, 2, 2, 4
    values = torch.randn(B, S, heads, D, generator=g, dtype=torch.float64)
    points = 1.4 * torch.rand(B, Q, heads, 2, P, 2, generator=g, dtype=torch.float64) - 0.2  # some outside
    weights = torch.rand(B, Q, heads, 2, P, generator=g, dtype=torch.float64)
    return values, points, weights


@pytest.mark.parametrize("seed", range(5))
def test_sampling_is_what_one_does_by_hand(seed: int) -> None:
    values, points, weights = drawn(seed)
    torch.testing.assert_close(sample(values, SHAPES, points, weights), by_hand(values, points, weights))


def test_sampling_in_bfloat16_is_near_that_in_float32() -> None:
    """On many points of maps that are not contiguous."""
    torch.manual_seed(0)
    values, points = torch.randn(1, 400, 4, 32), torch.rand(1, 30, 4, 1, 4, 2) * 1.1 - 0.05
    weights = torch.rand(1, 30, 4, 1, 4)
    wanted = sample(values, [(20, 20)], points, weights)
    found = sample(values.bfloat16(), [(20, 20)], points, weights)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, rtol=0, atol=0.05)


def test_sampling_has_the_gradients_of_finite_differences() -> None:
    values, points, weights = (value.requires_grad_() for value in drawn(7, images=1, queries=2))
    assert torch.autograd.gradcheck(
        lambda v, p, w: sample(v, SHAPES, p, w), (values, points, weights), eps=1e-6, atol=1e-6
    )


def pyramid_of(dim: int, padding: Tensor | None = None, images: int = 2) -> Pyramid:
    g = torch.Generator().manual_seed(1)
    return Pyramid(
        torch.randn(images, S, dim, generator=g),
        torch.randn(images, S, dim, generator=g),
        padding,
        SHAPES,
        torch.ones(images, 2, 2),
    )


@pytest.mark.parametrize("numbers", [2, 4])
def test_attention_has_the_gradients_of_finite_differences(numbers: int) -> None:
    """Through offsets, weights, values and references, with points and with boxes."""
    torch.manual_seed(0)
    attention = DeformableAttention(8, 2, 2, 2).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    pyramid = pyramid_of(8, images=1)
    queries = torch.randn(1, 2, 8, dtype=torch.float64, requires_grad=True)
    references = (0.2 + 0.6 * torch.rand(1, 2, 2, numbers, dtype=torch.float64)).requires_grad_()
    memory = torch.randn(1, S, 8, dtype=torch.float64, requires_grad=True)

    def attend(queries: Tensor, references: Tensor, memory: Tensor) -> Tensor:
        return attention(queries, references, memory, pyramid)

    parameters = tuple(attention.parameters())
    assert torch.autograd.gradcheck(
        lambda *values: attend(*values[:3]), (queries, references, memory, *parameters), eps=1e-6, atol=1e-5
    )


def test_the_first_attention_looks_around_in_all_directions() -> None:
    attention = DeformableAttention(32, 8, 2, 4)
    pyramid = pyramid_of(32)
    references = torch.full((2, 1, 2, 2), 0.5)
    points, weights = attention.sampling(torch.randn(2, 1, 32), references, pyramid)
    cells = (points - 0.5) * torch.tensor([(w, h) for h, w in SHAPES])[:, None]  # (2, 1, 8, 2, 4, 2)
    torch.testing.assert_close(cells.abs().amax(-1)[0, 0, 0, 0], torch.tensor([1.0, 2.0, 3.0, 4.0]))
    torch.testing.assert_close(cells[0, 0, 0, 0, 0], torch.tensor([1.0, 0.0]))  # the first head: to the right
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 8))


def test_padding_changes_nothing_for_the_picture_in_it() -> None:
    """Alone, and beside a larger one: what a picture's queries say differs by the padded convolutions alone."""
    model = architecture_of(DEFORMABLE).build(DEFORMABLE).eval()
    pictures = [torch.randn(3, 64, 96), torch.randn(3, 128, 128)]
    batch = collate(pictures)
    maps = model.backbone(batch.images)
    pyramid = model.pyramid(maps, batch)
    assert pyramid.padding is not None
    inside = [~pyramid.padding[0, :256].view(16, 16)]
    assert inside[0][:8, :12].all()
    assert inside[0].sum() == 8 * 12
    torch.testing.assert_close(pyramid.picture[0, 0], torch.tensor([12 / 16, 8 / 16]))
    cells = pyramid.cells()[0, :256].view(16, 16, 2)
    torch.testing.assert_close(cells[7, 11], torch.tensor([11.5 / 12, 7.5 / 8]))
    # Padded tokens may say what they like.
    with torch.no_grad():
        first = model.encoder(pyramid)
        noisy = torch.where(pyramid.padding[..., None], torch.randn_like(pyramid.tokens), pyramid.tokens)
        second = model.encoder(replace(pyramid, tokens=noisy))
    torch.testing.assert_close(first[~pyramid.padding], second[~pyramid.padding])


def test_levels_are_the_backbones_and_halves_of_them() -> None:
    input_ = PyramidInput([8, 16], 4, 32, SinePosition(32, centred=True))
    maps = torch.randn(1, 8, 9, 13), torch.randn(1, 16, 5, 7)
    pyramid = input_(maps, Batch(torch.zeros(1, 3, 72, 104), None))
    assert pyramid.shapes == [(9, 13), (5, 7), (3, 4), (2, 2)]
    assert pyramid.tokens.shape == pyramid.position.shape == (1, 9 * 13 + 35 + 12 + 4, 32)
    assert pyramid.padding is None


def test_anchors_lie_on_cells_and_double_with_each_level() -> None:
    found = anchors(pyramid_of(8))
    boxes = found.logits.sigmoid()
    torch.testing.assert_close(boxes[0, 0], torch.tensor([0.1, 1 / 6, 0.05, 0.05]))
    torch.testing.assert_close(boxes[0, -1], torch.tensor([0.75, 0.75, 0.1, 0.1]))
    assert found.valid.all()
    padding = torch.zeros(2, S, dtype=torch.bool)
    padding[1, 3] = True
    hidden = anchors(pyramid_of(8, padding))
    assert hidden.logits[1, 3].isinf().all()
    assert hidden.valid.sum() == 2 * S - 1


def small_targets() -> list[Target]:
    g = torch.Generator().manual_seed(3)
    return [Target(torch.randint(3, (n,), generator=g), 0.3 + 0.4 * torch.rand(n, 4, generator=g)) for n in (3, 1)]


def noise_of(rows: int, seed: int) -> Noise:
    g = torch.Generator().manual_seed(seed)
    return Noise(
        torch.rand(rows, generator=g),
        torch.randint(3, (rows,), generator=g),
        2 * torch.randint(2, (rows, 4), generator=g) - 1,
        torch.rand(rows, 4, generator=g),
    )


def test_denoising_queries_leak_nothing() -> None:
    """Other noise changes no matching query, and other noise in one group no other group."""
    model = architecture_of(DINO_CONFIG).build(DINO_CONFIG).eval()
    assert isinstance(model, DINO)
    for attention in (layer.cross_attention for layer in model.decoder):  # else all look at the same
        torch.nn.init.normal_(attention.sampling_offsets.weight, std=0.1)
    batch, targets = Batch(torch.randn(2, 3, 64, 96), None), small_targets()
    # 4 positives for the picture of 3 objects make one group; 8 make two.
    model.denoising.number = 8
    of_group = 2 * 3

    def outcome(noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
        model.denoising.draw = lambda _rows, _device: noise  # type: ignore[method-assign]  # what is drawn is given
        with torch.no_grad():
            output = model(batch, targets)
        denoising, _ = output.others
        return output.decoder.logits, output.decoder.boxes, denoising.boxes

    rows = 4 * 4  # half-groups x objects
    one, other = noise_of(rows, 0), noise_of(rows, 1)
    first_group = torch.arange(rows) < 2 * 4
    mixed = Noise(
        *(
            torch.where(first_group.view(-1, *[1] * (a.dim() - 1)), a, b)
            for a, b in zip(vars(one).values(), vars(other).values(), strict=True)
        )
    )
    a, b, c = outcome(one), outcome(other), outcome(mixed)
    with torch.no_grad():
        alone = model(batch)
    assert (a[0] - b[0]).abs().max() <= 1e-6
    assert (a[1] - b[1]).abs().max() <= 1e-6
    torch.testing.assert_close(alone.decoder.boxes, a[1], rtol=0, atol=1e-6)
    assert (a[2] - b[2]).abs().max() > 1e-3
    assert (a[2] - c[2])[:, :, :of_group].abs().max() <= 1e-6
    assert (a[2] - c[2])[:, :, of_group:].abs().max() > 1e-3


def test_denoising_without_a_single_object() -> None:
    """The group is there all the same, so that processes agree; its loss reaches every parameter."""
    model = architecture_of(DINO_CONFIG).build(DINO_CONFIG).train()
    targets = [Target(torch.zeros(0, dtype=torch.long), torch.zeros(0, 4)) for _ in range(2)]
    output = model(Batch(torch.randn(2, 3, 64, 64), None), targets)
    assert [group.name for group in output.others] == ["denoising", "proposals"]
    loss = architecture_of(DINO_CONFIG).make_loss(DINO_CONFIG, architecture_of(DINO_CONFIG).loss)
    step = StepNormalizers.of([targets, small_targets()])
    loss.compute_loss(output, targets, step).total.backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert not [name for name, grad in trained.items() if grad is None]
    # 3 + 1 objects in two groups of at most 3 of the other batch.
    assert step.normalisers["denoising"]["l1"] == 4 * model.denoising.groups(3)


def test_without_negatives_a_group_has_every_object_once() -> None:
    denoising = Denoising(32, 3, number=6, label_noise=0.2, box_noise=0.4, contrastive=False)
    found = denoising(small_targets(), 5)
    assert found.contents.shape == (2, 2 * 3, 32)
    assert found.images.tolist() == [0] * 6 + [1] * 2
    assert found.queries.tolist() == [0, 1, 2, 3, 4, 5, 0, 3]
    assert found.objects.tolist() == [0, 1, 2, 0, 1, 2, 3, 3]


def test_without_a_decoder_proposals_are_what_is_said() -> None:
    config = replace(preset("dino-tiny").config, decoder_layers=0, denoising=0)
    architecture = architecture_of(config)
    model = architecture.build(config)
    output = model(Batch(torch.randn(2, 3, 64, 96), None), small_targets())
    assert output.others == ()
    assert output.decoder.logits.shape == (1, 2, 8 * 12, config.classes)
    loss = architecture.make_loss(config, architecture.loss).compute_loss(output, small_targets())
    assert loss.total.isfinite()
    assert architecture.inspect(model).abilities == frozenset()
    assert [stage.name for stage in architecture.inspect(model).stages()][-3:] == [
        "proposals",
        "class head",
        "box head",
    ]
