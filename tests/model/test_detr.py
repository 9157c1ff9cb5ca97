"""The network by itself: sizes, padding, the random start."""

import math

import pytest
import torch
from torch import Tensor, nn

from detrcli.architectures import preset
from detrcli.architectures.detr import ARCHITECTURE, DETRConfig
from detrcli.data.batching import collate
from detrcli.errors import UsageError
from detrcli.model.backbone import NORMS, ResNet
from detrcli.model.detr import DETR, downsample_padding, tokens
from detrcli.model.position import LearnedPosition, SinePosition
from detrcli.structures import Batch


@pytest.fixture(scope="module")
def detr() -> DETR:
    torch.manual_seed(0)
    return ARCHITECTURE.build(preset("detr-r50").config).eval()


def test_r50_counts(detr: DETR) -> None:
    assert sum(p.numel() for p in detr.parameters()) == 41_524_768
    assert sum(p.numel() for p in detr.parameters() if p.requires_grad) == 41_302_368


def test_r101_builds_counts_and_runs() -> None:
    r101 = ARCHITECTURE.build(preset("detr-r101").config).eval()
    assert sum(p.numel() for p in r101.parameters()) == 60_464_672
    with torch.no_grad():
        output = r101(collate([torch.randn(3, 64, 96)]))
    assert output.last.logits.shape == (1, 100, 92)
    assert output.last.logits.isfinite().all()
    assert ((output.last.boxes >= 0) & (output.last.boxes <= 1)).all()


@pytest.mark.parametrize(("dilated", "cells"), [(False, (19, 25)), (True, (38, 50))])
def test_cells_of_a_picture_of_800_by_600(dilated: bool, cells: tuple[int, int]) -> None:
    with torch.device("meta"):
        *_, features = ResNet("resnet50", norm=NORMS["frozen"], dilated=dilated)(torch.zeros(1, 3, 600, 800))
    assert features.shape == (1, 2048, *cells)


def test_transformer_ignores_what_is_in_padded_cells(detr: DETR) -> None:
    """The same features with padded cells of any content, and with no padded cells at all."""
    g = torch.Generator().manual_seed(1)
    features = torch.randn(1, 256, 6, 7, generator=g)
    padded = torch.zeros(1, 256, 9, 10)
    padded[..., :6, :7] = features
    outside = torch.ones(1, 9, 10, dtype=torch.bool)
    outside[..., :6, :7] = False
    noisy = torch.where(outside[:, None], 100 * torch.randn(padded.shape, generator=g), padded)

    alone = from_features(detr, features, torch.zeros(1, 6, 7, dtype=torch.bool))
    for cells in (padded, noisy):
        for ours, expected in zip(from_features(detr, cells, outside), alone, strict=True):
            torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)


@torch.no_grad()
def from_features(detr: DETR, features: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
    position = tokens(detr.position(features, padding))
    memory = detr.encoder(tokens(features), position, padding.flatten(1))
    hidden = detr.decoder(detr.queries.weight, memory, position, padding.flatten(1))
    return detr.class_head(hidden), detr.box_head(hidden)


def test_positions_reach_queries_and_keys_at_every_layer_and_never_values(detr: DETR) -> None:
    calls: list[tuple[str, Tensor, Tensor, Tensor]] = []
    hooks = [
        module.register_forward_pre_hook(lambda _m, args, name=name: calls.append((name, *args[:3])))
        for name, module in detr.named_modules()
        if isinstance(module, nn.MultiheadAttention)
    ]
    batch = collate([torch.randn(3, 64, 96)])
    with torch.no_grad():
        detr(batch)
    for hook in hooks:
        hook.remove()

    position = tokens(detr.position(torch.zeros(1, 256, 2, 3), None))
    objects = detr.queries.weight
    assert len(calls) == 18
    for name, queries, keys, values in calls:
        if "encoder" in name:
            torch.testing.assert_close(queries - values, position)
            torch.testing.assert_close(keys - values, position)
        elif "cross" in name:
            torch.testing.assert_close(keys - values, position)
        else:
            torch.testing.assert_close(queries - values, objects[None])
            torch.testing.assert_close(keys - values, objects[None])
        if name == "decoder.layers.0.self_attention":
            assert (values == 0).all()


def test_sine_position_by_hand() -> None:
    """Channel 2k of a half is sin(angle / 10000^(2k / half)), channel 2k + 1 its cosine; rows come first."""
    padding = torch.tensor([[[False, False, True], [False, False, True]]])  # 2 rows, 2 columns of picture
    position = SinePosition(8)(torch.zeros(1, 8, 2, 3), padding)[0]
    row, column = 2 / (2 + 1e-6) * 2 * math.pi, 1 / (2 + 1e-6) * 2 * math.pi  # second row, first column
    expected = [f(angle / 10000 ** (k / 2)) for angle in (row, column) for k in (0, 1) for f in (math.sin, math.cos)]
    torch.testing.assert_close(position[:, 1, 0], torch.tensor(expected), rtol=0, atol=1e-6)


def test_learned_positions_end_with_an_error_at_50() -> None:
    position = LearnedPosition(8)
    assert position(torch.zeros(2, 8, 50, 50), None).shape == (2, 8, 50, 50)
    for h, w in ((51, 10), (10, 51)):
        with pytest.raises(UsageError, match=rf"50 x 50 feature cells, not {w} x {h}"):
            position(torch.zeros(1, 8, h, w), None)


def test_first_cell_of_a_picture_is_never_padding() -> None:
    """However small it is beside its company; attention over padding alone would be NaN."""
    padding = collate([torch.zeros(3, 1, 1), torch.zeros(3, 640, 800)]).padding
    cells = downsample_padding(padding, torch.zeros(2, 1, 20, 25))
    assert not cells[0, 0, 0]
    assert cells[0].sum() == 20 * 25 - 1
    assert not cells[1].any()


def test_collate_pads_right_and_bottom() -> None:
    batch = collate([torch.ones(3, 2, 5), torch.ones(3, 4, 3)])
    assert batch.images.shape == (2, 3, 4, 5)
    assert torch.equal(batch.images[:, 0] == 0, batch.padding)
    assert not batch.padding[0, :2].any()
    assert batch.padding[0, 2:].all()


def test_equal_sizes_are_not_padded(detr: DETR) -> None:
    """No padding is the same as padding that is nowhere."""
    g = torch.Generator().manual_seed(3)
    batch = collate([torch.randn(3, 64, 96, generator=g) for _ in range(2)])
    assert batch.padding is None
    nowhere = Batch(batch.images, torch.zeros(2, 64, 96, dtype=torch.bool))
    with torch.no_grad():
        without, there = detr(batch).last, detr(nowhere).last
    torch.testing.assert_close(without.logits, there.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(without.boxes, there.boxes, rtol=0, atol=1e-5)


def test_starts_as_published() -> None:
    """Every tensor's spread against the published rule for it."""
    torch.manual_seed(0)
    detr = ARCHITECTURE.build(DETRConfig(position="learned", encoder_layers=1, decoder_layers=1))
    uniform = 1 / math.sqrt(3)  # the standard deviation of a uniform spread over [-1, 1]

    def xavier(rows: int, columns: int) -> float:
        return math.sqrt(6 / (rows + columns)) * uniform

    spreads = {
        "encoder.layers.0.self_attention.in_proj_weight": xavier(768, 256),
        "encoder.layers.0.self_attention.out_proj.weight": xavier(256, 256),
        "encoder.layers.0.feed_forward.linear1.weight": xavier(2048, 256),
        "decoder.layers.0.cross_attention.in_proj_weight": xavier(768, 256),
        "decoder.layers.0.feed_forward.linear2.weight": xavier(256, 2048),
        "decoder.layers.0.self_attention.in_proj_bias": 0,
        "decoder.layers.0.self_attention.out_proj.bias": 0,
        "encoder.layers.0.feed_forward.linear1.bias": uniform / math.sqrt(256),
        "projection.weight": uniform / math.sqrt(2048),
        "class_head.weight": uniform / math.sqrt(256),
        "box_head.layers.2.weight": uniform / math.sqrt(256),
        "queries.weight": 1,
        "position.rows.weight": uniform / 2,
    }
    parameters = dict(detr.named_parameters())
    for name, spread in spreads.items():
        assert parameters[name].std().item() == pytest.approx(spread, rel=0.05), name
    assert parameters["position.columns.weight"].min() >= 0


def test_padding_of_the_batch_reaches_the_attention(detr: DETR) -> None:
    """A picture whose lower half is declared padding is not the same picture."""
    images = torch.randn(1, 3, 128, 96, generator=torch.Generator().manual_seed(2))
    padding = torch.zeros(1, 128, 96, dtype=torch.bool)
    with torch.no_grad():
        whole = detr(Batch(images, padding)).last.logits
        padding[:, 64:] = True
        half = detr(Batch(images, padding)).last.logits
    assert (whole - half).abs().max() > 1e-3
