"""Dot-product mask heads on the detectors for photographs: DETR, Deformable DETR, DINO."""

from dataclasses import replace

import pytest
import torch
from small import CONFIG, DEFORMABLE, DINO_CONFIG, TWO_STAGE, architecture_of, small_weights

from detrcli.architectures import preset
from detrcli.checkpoints.fit import with_mask_head
from detrcli.config import ModelConfig
from detrcli.data.preprocessing import collate
from detrcli.structures import Batch, Target

# By preset, the config of a small detector of its kind.
MODELS: dict[str, ModelConfig] = {
    "detr-r50-masks": CONFIG,
    "deformable-detr-r50-masks": DEFORMABLE,
    "deformable-detr-r50-refine-two-stage-masks": TWO_STAGE,
    "dino-r50-4scale-masks": DINO_CONFIG,
}
OTHER_LEVELS = [
    ("deformable-detr-r50-masks", replace(DEFORMABLE, levels=1)),
    ("dino-r50-4scale-masks", replace(DINO_CONFIG, levels=5)),
]
IMAGES = [torch.randn(3, 64, 96), torch.randn(3, 50, 40)]


def target(height: int, width: int) -> Target:
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    masks[0, 5:30, 8:30] = masks[1, 20:45, 4:20] = True
    return Target(torch.tensor([0, 2]), torch.tensor([[0.3, 0.3, 0.3, 0.4], [0.2, 0.6, 0.2, 0.4]]), masks=masks)


@pytest.mark.parametrize(("model", "config"), [*MODELS.items(), *OTHER_LEVELS])
def test_masks_are_learned(model: str, config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks have four pixels per cell, and every parameter of the head gets a gradient from the last layer's losses."""
    torch.manual_seed(0)
    architecture = preset(model).architecture
    monkeypatch.setattr(architecture, "points", 64)
    network = architecture.build(config).train()
    targets = [target(64, 96), target(50, 40)]
    output = network(collate(IMAGES), targets)
    masks = output.last.masks
    assert masks(torch.tensor([0, 1, 1]), torch.tensor([3, 4, 5])).shape == (3, 16, 24)
    breakdown = architecture.make_loss(config, architecture.loss).compute_loss(output, targets)
    assert all(breakdown.parts[name] > 0 for name in ("mask", "dice"))
    breakdown.total.backward()
    assert [name for name, p in network.mask_head.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("model", MODELS)
@torch.no_grad()
def test_a_mask_head_does_not_change_the_detector(model: str) -> None:
    """With a mask head added, its logits and boxes are bitwise equal."""
    alone = small_weights(MODELS[model])
    both = with_mask_head(replace(alone, loss=architecture_of(alone.config).loss), model)
    batch = Batch(IMAGES[0][None], None)
    plain, masked = alone.model()(batch), both.model()(batch)
    assert torch.equal(plain.last.logits, masked.last.logits)
    assert torch.equal(plain.last.boxes, masked.last.boxes)
    assert masked.last.masks is not None
    assert {"mask", "dice"} <= both.loss.loss.keys()
