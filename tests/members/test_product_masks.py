"""A mask head of products on every detector of ours that reads photographs: DETR, Deformable DETR, DINO."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from small import CONFIG, DEFORMABLE, DINO_CONFIG, NARROW, TWO_STAGE, small_weights

from detrcli.architectures import architecture_of
from detrcli.architectures.product_masks import DeformableMasksConfig, DETRProductMasksConfig, DINOMasksConfig
from detrcli.checkpoints.fit import with_mask_head
from detrcli.config import ModelConfig
from detrcli.data.batching import collate
from detrcli.structures import Batch, Target

POINTS = {"mask_points": 64}
MEMBERS: dict[str, ModelConfig] = {
    "detr": DETRProductMasksConfig(**NARROW, **POINTS),
    "deformable": DeformableMasksConfig(**NARROW, **POINTS),
    "single scale": DeformableMasksConfig(**NARROW, **POINTS, levels=1),
    "two stages": DeformableMasksConfig(**NARROW, **POINTS, refine=True, two_stage=True, proposal_rows=3),
    "dino": DINOMasksConfig(**NARROW, **POINTS, denoising=6),
    "dino of five levels": DINOMasksConfig(**NARROW, **POINTS, denoising=6, levels=5),
}
PICTURES = [torch.randn(3, 64, 96), torch.randn(3, 50, 40)]


def target(height: int, width: int) -> Target:
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    masks[0, 5:30, 8:30] = masks[1, 20:45, 4:20] = True
    return Target(torch.tensor([0, 2]), torch.tensor([[0.3, 0.3, 0.3, 0.4], [0.2, 0.6, 0.2, 0.4]]), masks=masks)


@pytest.mark.parametrize("config", MEMBERS.values(), ids=MEMBERS)
def test_its_masks_are_learned(config: Any) -> None:
    """Masks of four pixels a cell, losses of the last layer, and a gradient for every parameter of the head."""
    torch.manual_seed(0)
    architecture = architecture_of(config)
    model = architecture.build(config).train()
    targets = [target(64, 96), target(50, 40)]
    output = model(collate(PICTURES), targets)
    masks = output.last.masks
    assert masks is not None
    assert masks(torch.tensor([0, 1, 1]), torch.tensor([3, 4, 5])).shape == (3, 16, 24)
    breakdown = architecture.make_loss(config, architecture.loss).compute_loss(output, targets)
    assert {"mask", "dice"} <= breakdown.parts.keys()
    assert all(breakdown.parts[name] > 0 for name in ("mask", "dice"))
    breakdown.total.backward()
    assert [name for name, p in model.mask_head.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("detector", "model"),
    [
        (CONFIG, "detr-r50-masks"),
        (DEFORMABLE, "deformable-detr-r50-masks"),
        (TWO_STAGE, "deformable-detr-r50-refine-two-stage-masks"),
        (DINO_CONFIG, "dino-r50-4scale-masks"),
    ],
    ids=["detr", "deformable", "two stages", "dino"],
)
@torch.no_grad()
def test_a_detector_with_a_mask_head_says_what_it_said(detector: ModelConfig, model: str) -> None:
    """A head is put on weights that are there: their logits and boxes are equal to the bit."""
    alone = small_weights(detector)
    both = with_mask_head(replace(alone, loss=architecture_of(detector).loss), model)
    batch = Batch(PICTURES[0][None], None)
    plain, masked = alone.model().eval()(batch), both.model().eval()(batch)
    assert torch.equal(plain.last.logits, masked.last.logits)
    assert torch.equal(plain.last.boxes, masked.last.boxes)
    assert masked.last.masks is not None
    assert {"mask", "dice"} <= both.loss.loss.keys()
