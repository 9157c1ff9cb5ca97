"""Mask heads compute the masks of requested queries, independent of other queries and images."""

import itertools
from dataclasses import replace
from typing import cast

import pytest
import torch
from small import CONFIG, masked_weights

from detrcli.architectures import preset
from detrcli.architectures.mask_heads import CONVOLUTIONAL
from detrcli.data.preprocessing import collate
from detrcli.model.masks import Segmenter, cells_outside
from detrcli.structures import Batch, Masks

LARGE, SMALL = torch.randn(3, 64, 96), torch.randn(3, 50, 40)


@pytest.fixture(scope="module")
def model() -> Segmenter:
    return cast("Segmenter", masked_weights().model())


def masks_in(model: Segmenter, batch: Batch) -> Masks:
    masks = model(batch).last.masks
    assert masks is not None
    return masks


@torch.no_grad()
def test_a_mask_does_not_depend_on_other_requested_queries(model: Segmenter) -> None:
    masks = masks_in(model, collate([LARGE, SMALL]))
    images, queries = torch.arange(2).repeat_interleave(9), torch.arange(9).repeat(2)
    every = masks(images, queries)  # (18, h, w)
    assert every.shape == (18, 16, 24)
    assert masks.input_size == (64, 96)
    for i in (0, 7, 11):
        alone = masks(images[i : i + 1], queries[i : i + 1])
        torch.testing.assert_close(alone[0], every[i], rtol=0, atol=1e-5)


@torch.no_grad()
def test_attention_maps_exclude_the_padding(model: Segmenter) -> None:
    masks = masks_in(model, collate([LARGE, SMALL]))
    maps = masks.attention(torch.tensor([1, 0]), torch.tensor([3, 3]))  # (2, heads, h, w)
    torch.testing.assert_close(maps.flatten(1).sum(1), torch.ones(2))  # over all heads together
    assert (maps[0, :, :, 2:] == 0).all()
    assert (maps[1, :, :, 2:] > 0).all()


def test_without_requested_queries_every_parameter_has_a_gradient() -> None:
    """DistributedDataParallel waits for all gradients, in batches without objects too."""
    model = CONVOLUTIONAL.build(CONFIG)
    nothing = torch.zeros(0, dtype=torch.long)
    masks_in(model, collate([LARGE]))(nothing, nothing).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.mask_head.parameters())


def test_a_frozen_detector_is_not_trained() -> None:
    model = CONVOLUTIONAL.build(replace(CONFIG, norm="batch"))
    model.freeze("detector")
    model.train()
    assert model.mask_head.training
    assert not any(module.training for module in model.detector.modules())
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {f"mask_head.{name}" for name, _ in model.mask_head.named_parameters()}
    model.freeze("stem")
    assert model.detector.training
    assert all(p.requires_grad for p in model.detector.encoder.parameters())
    assert not any(p.requires_grad for p in model.backbone.stem()[0].parameters())


@torch.no_grad()
def test_masks_have_the_precision_of_their_forward_pass(model: Segmenter) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        masks = masks_in(model, collate([LARGE]))
    exact = masks_in(model, collate([LARGE]))
    query = torch.tensor([0]), torch.tensor([4])
    rough = masks(*query)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact(*query)).abs().max() < 0.2 * exact(*query).std()


def test_distance_of_cells_to_boxes() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.25], [0.9, 0.1, 0.4, 0.2]])
    height, width = 8, 4
    distances = cells_outside(boxes, height, width)
    for n, row, column in itertools.product(range(2), range(height), range(width)):
        cx, cy, w, h = boxes[n].tolist()
        x, y = (column + 0.5) / width, (row + 0.5) / height
        across = max(cx - w / 2 - x, x - cx - w / 2, 0) * width
        down = max(cy - h / 2 - y, y - cy - h / 2, 0) * height
        assert distances[n, row, column] == pytest.approx(across + down, abs=1e-5)


@torch.no_grad()
def test_a_dot_product_mask_ends_at_the_box_of_its_query() -> None:
    torch.manual_seed(0)
    architecture, config = preset("dino-tiny-masks")
    model = architecture.build(config).eval()
    last = model(Batch(torch.randn(1, 3, 64, 80), None)).last
    queries = torch.arange(20)
    shown = last.masks(torch.zeros_like(queries), queries) > 0  # (20, h, w)
    cells = cells_outside(last.boxes[0, :20], *shown.shape[1:])
    assert shown.any()
    assert not shown[cells > 2].any()
