"""Dot-product mask heads on the detectors for photographs: DETR, Deformable DETR, DINO."""

from dataclasses import replace

import pytest
import torch
from small import CONFIG, DEFORMABLE, DINO_CONFIG, TWO_STAGE, architecture_of, small_weights

from detrcli.architectures import deformable_detr, detr, dino
from detrcli.architectures.architecture import Architecture
from detrcli.architectures.mask_heads import DotProductMasks
from detrcli.checkpoints.fit import with_mask_head
from detrcli.config import ModelConfig
from detrcli.data.preprocessing import collate
from detrcli.structures import Batch, Target

MODELS: dict[str, tuple[Architecture, ModelConfig]] = {
    "detr": (detr.ARCHITECTURE, CONFIG),
    "deformable": (deformable_detr.ARCHITECTURE, DEFORMABLE),
    "single scale": (deformable_detr.ARCHITECTURE, replace(DEFORMABLE, levels=1)),
    "two stages": (deformable_detr.ARCHITECTURE, TWO_STAGE),
    "dino": (dino.ARCHITECTURE, DINO_CONFIG),
    "dino of five levels": (dino.ARCHITECTURE, replace(DINO_CONFIG, levels=5)),
}
IMAGES = [torch.randn(3, 64, 96), torch.randn(3, 50, 40)]


def target(height: int, width: int) -> Target:
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    masks[0, 5:30, 8:30] = masks[1, 20:45, 4:20] = True
    return Target(torch.tensor([0, 2]), torch.tensor([[0.3, 0.3, 0.3, 0.4], [0.2, 0.6, 0.2, 0.4]]), masks=masks)


@pytest.mark.parametrize(("detector", "config"), MODELS.values(), ids=MODELS)
def test_masks_are_learned(detector: Architecture, config: ModelConfig) -> None:
    """Masks have four pixels per cell, and every parameter of the head gets a gradient from the last layer's losses."""
    torch.manual_seed(0)
    architecture = DotProductMasks("small", detector, {}, 64)
    model = architecture.build(config).train()
    targets = [target(64, 96), target(50, 40)]
    output = model(collate(IMAGES), targets)
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
def test_a_mask_head_does_not_change_the_detector(detector: ModelConfig, model: str) -> None:
    """With a mask head added, its logits and boxes are bitwise equal."""
    alone = small_weights(detector)
    both = with_mask_head(replace(alone, loss=architecture_of(detector).loss), model)
    batch = Batch(IMAGES[0][None], None)
    plain, masked = alone.model()(batch), both.model()(batch)
    assert torch.equal(plain.last.logits, masked.last.logits)
    assert torch.equal(plain.last.boxes, masked.last.boxes)
    assert masked.last.masks is not None
    assert {"mask", "dice"} <= both.loss.loss.keys()
