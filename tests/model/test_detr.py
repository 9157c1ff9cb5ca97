"""DETR: sizes, padding, positions, initialization."""

import math
from contextlib import ExitStack

import pytest
import torch
from small import CONFIG, architecture_of
from torch import Tensor, nn

from detrcli.architectures import preset
from detrcli.architectures.detr import ARCHITECTURE, DETRConfig
from detrcli.architectures.tiny import TinyConfig
from detrcli.config import ModelConfig
from detrcli.data.preprocessing import collate
from detrcli.errors import UsageError
from detrcli.model.backbone import NORMS, ResNet
from detrcli.model.detr import DETR, downsample_padding, tokens
from detrcli.model.position import LearnedPosition, SinePosition
from detrcli.structures import Batch


@pytest.fixture(scope="module")
def detr() -> DETR:
    torch.manual_seed(0)
    return ARCHITECTURE.build(preset("detr-r50").config).eval()


def test_parameter_counts_and_output(detr: DETR) -> None:
    assert sum(p.numel() for p in detr.parameters()) == 41_524_768
    assert sum(p.numel() for p in detr.parameters() if p.requires_grad) == 41_302_368
    r101 = ARCHITECTURE.build(preset("detr-r101").config).eval()
    assert sum(p.numel() for p in r101.parameters()) == 60_464_672
    with torch.no_grad():
        output = r101(collate([torch.randn(3, 64, 96)]))
    assert output.last.logits.shape == (1, 100, 92)
    assert output.last.logits.isfinite().all()
    assert ((output.last.boxes >= 0) & (output.last.boxes <= 1)).all()


@pytest.mark.parametrize(("dilated", "cells"), [(False, (19, 25)), (True, (38, 50))])
def test_cells_of_an_image_of_800_by_600(dilated: bool, cells: tuple[int, int]) -> None:
    with torch.device("meta"):
        *_, features = ResNet("resnet50", norm=NORMS["frozen"], dilated=dilated)(torch.zeros(1, 3, 600, 800))
    assert features.shape == (1, 2048, *cells)


@torch.no_grad()
@pytest.mark.parametrize("config", [CONFIG, TinyConfig()], ids=["detr", "detr-tiny"])
def test_the_content_of_padded_cells_has_no_effect(config: ModelConfig) -> None:
    """The same features with padded cells of any content, and without padded cells."""
    torch.manual_seed(0)
    model = architecture_of(config).build(config).eval()
    nn.init.normal_(model.box_head.layers[-1].weight, std=0.1)
    channels = model.backbone.channels[-1]
    features = torch.randn(1, channels, 6, 7)
    padded = torch.zeros(1, channels, 9, 10)
    padded[..., :6, :7] = features
    outside = torch.ones(1, 9, 10, dtype=torch.bool)
    outside[..., :6, :7] = False
    noisy = torch.where(outside[:, None], 100 * torch.randn(padded.shape), padded)

    def decoded(features: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        model.backbone.forward = lambda _: (features,)
        pixels = padding.repeat_interleave(8, 1).repeat_interleave(8, 2)
        decoder = model(Batch(torch.zeros(1, 3, *pixels.shape[1:]), pixels)).decoder
        return decoder.logits, decoder.boxes

    alone = decoded(features, torch.zeros(1, 6, 7, dtype=torch.bool))
    for cells in (padded, noisy):
        for ours, expected in zip(decoded(cells, outside), alone, strict=True):
            torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)


def test_positions_are_added_to_queries_and_keys_of_every_layer(detr: DETR) -> None:
    """And never to values."""
    calls: list[tuple[str, Tensor, Tensor, Tensor]] = []
    names = {module: name for name, module in detr.named_modules() if isinstance(module, nn.MultiheadAttention)}
    with torch.no_grad(), ExitStack() as hooks:
        for module in names:
            hook = module.register_forward_pre_hook(lambda module, args: calls.append((names[module], *args[:3])))
            hooks.enter_context(hook)
        detr(collate([torch.randn(3, 64, 96)]))

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
    padding = torch.tensor([[[False, False, True], [False, False, True]]])  # 2 rows, 2 columns of image
    position = SinePosition(8)(torch.zeros(1, 8, 2, 3), padding)[0]
    row, column = 2 / (2 + 1e-6) * 2 * math.pi, 1 / (2 + 1e-6) * 2 * math.pi  # second row, first column
    expected = [f(angle / 10000 ** (k / 2)) for angle in (row, column) for k in (0, 1) for f in (math.sin, math.cos)]
    torch.testing.assert_close(position[:, 1, 0], torch.tensor(expected), rtol=0, atol=1e-6)


def test_learned_positions_are_limited_to_50() -> None:
    position = LearnedPosition(8)
    assert position(torch.zeros(2, 8, 50, 50), None).shape == (2, 8, 50, 50)
    for h, w in ((51, 10), (10, 51)):
        with pytest.raises(UsageError, match=f"50 x 50.*{w} x {h}"):
            position(torch.zeros(1, 8, h, w), None)


def test_the_first_cell_of_an_image_is_never_padding() -> None:
    """At any size: attention over padding alone would be NaN."""
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
    """Without padding, results are those of a padding mask that is False everywhere."""
    g = torch.Generator().manual_seed(3)
    batch = collate([torch.randn(3, 64, 96, generator=g) for _ in range(2)])
    assert batch.padding is None
    with torch.no_grad():
        without, empty = detr(batch).last, detr(Batch(batch.images, torch.zeros(2, 64, 96, dtype=torch.bool))).last
    torch.testing.assert_close(without.logits, empty.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(without.boxes, empty.boxes, rtol=0, atol=1e-5)


def test_initialization_is_as_published() -> None:
    """The standard deviation of every kind of tensor."""
    torch.manual_seed(0)
    detr = ARCHITECTURE.build(DETRConfig(position="learned", encoder_layers=1, decoder_layers=1))
    uniform = 1 / math.sqrt(3)  # standard deviation of a uniform distribution over [-1, 1]

    def xavier(rows: int, columns: int) -> float:
        return math.sqrt(6 / (rows + columns)) * uniform

    deviations = {
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
    for name, deviation in deviations.items():
        assert parameters[name].std().item() == pytest.approx(deviation, rel=0.05), name
    assert parameters["position.columns.weight"].min() >= 0
