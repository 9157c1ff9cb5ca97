"""Measure a training step on a CPU: DETR R50, two images of 800 x 1066, forward, loss, backward, clipping, AdamW.

    pip install 'detrcli[bench]' && OMP_WAIT_POLICY=PASSIVE python examples/training_speed.py

Alternates in one process: transformers with the published frozen layers (it freezes the whole backbone) and dropout;
our model with the memory layout, frozen batch norm, dropout and optimizer of the published code, whose step takes as
long; our model in float32 and bf16; and a step of detr-tiny on eight images of 128 x 128, both ways. Each side uses
its usual allocator settings. Expected speedups over the published way: 1.2, and 1.9 in bf16; detr-tiny 1.3. Takes
about five minutes.
"""

from collections.abc import Callable
from typing import Any

import torch
from timing import allocator_as_it_is, compared, in_turn, show, transformers_learner
from torch import nn
from torch.optim import AdamW
from torchvision.ops import FrozenBatchNorm2d as PublishedNorm

from detrcli.architectures import preset
from detrcli.data.dataset import Examples
from detrcli.data.preprocessing import collate
from detrcli.model.attention import Dropout, MultiheadAttention
from detrcli.model.backbone import FrozenBatchNorm2d
from detrcli.structures import Batch, Target
from detrcli.system.allocator import keep_large_blocks
from detrcli.training.settings import Settings
from detrcli.training.step import Trainer, make_optimizer

ROUNDS = 7
CPU = torch.device("cpu")
THEIRS = "transformers"


def examples(count: int, height: int, width: int) -> Examples:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(3, height, width, generator=generator) for _ in range(count)]
    targets = [
        Target(torch.randint(0, 5, (7,), generator=generator), torch.rand(7, 4, generator=generator) * 0.4 + 0.3)
        for _ in images
    ]
    return Examples(collate(images), targets, list(range(count)))


def as_published(model: nn.Module) -> None:
    """Replace frozen batch norm by torchvision's, dropout and attention by torch's."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            replacement: nn.Module
            if isinstance(child, FrozenBatchNorm2d):
                replacement = PublishedNorm(len(child.weight))
            elif isinstance(child, Dropout):
                replacement = nn.Dropout(child.p)
            elif isinstance(child, MultiheadAttention):
                replacement = nn.MultiheadAttention(child.embed_dim, child.num_heads, child.dropout, batch_first=True)
            else:
                continue
            replacement.load_state_dict(child.state_dict())
            setattr(module, name, replacement)


def ours(name: str, batch: Examples, precision: str = "fp32", *, published: bool = False) -> Callable[[], Any]:
    architecture, config = preset(name)
    torch.manual_seed(0)
    model = architecture.build(config)
    if published:
        as_published(model)
        batch = Examples(Batch(batch.batch.images.contiguous(), None), batch.targets, batch.image_ids)
    settings = Settings(precision=precision)
    optimizer = make_optimizer(architecture.parameter_groups(model), settings, fresh_backbone=True)
    if published:
        optimizer = AdamW([{**group, "fused": False} for group in optimizer.param_groups])
    trainer = Trainer(model, architecture.make_loss(config, architecture.loss), optimizer, settings, 100, CPU)
    steps = iter(range(10**6))
    return lambda: trainer.step([batch], next(steps))


def transformers_step(batch: Examples) -> Callable[[], Any]:
    model = transformers_learner()
    optimizer = AdamW(model.parameters(), lr=1e-4)
    labels = [{"class_labels": target.labels, "boxes": target.boxes} for target in batch.targets]
    images = batch.batch.images.contiguous()

    def step() -> None:
        optimizer.zero_grad()
        model(pixel_values=images, labels=labels).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()

    return step


def main() -> None:
    large, small = examples(2, 800, 1066), examples(8, 128, 128)
    steps = {
        THEIRS: transformers_step(large),
        "the published way": ours("detr-r50", large, published=True),
        "ours": ours("detr-r50", large),
        "ours, bf16": ours("detr-r50", large, "bf16"),
    }
    tiny = {
        "detr-tiny, the published way": ours("detr-tiny", small, published=True),
        "detr-tiny": ours("detr-tiny", small),
        "detr-tiny, bf16": ours("detr-tiny", small, "bf16"),
    }

    def prepare(name: str) -> None:
        allocator_as_it_is() if name == THEIRS or "published" in name else keep_large_blocks()

    rows = compared(in_turn(steps, ROUNDS, prepare), "the published way")
    rows += compared(in_turn(tiny, 5 * ROUNDS, prepare), "detr-tiny, the published way")
    show(rows)


if __name__ == "__main__":
    main()
