"""AdamW with a slower backbone, and the learning rate's course."""

import math
from collections.abc import Iterable, Iterator

from torch import nn
from torch.optim import AdamW

from detrcli.training.settings import Settings

DROP_AFTER, DROP = 2 / 3, 0.1  # published: 200 of 300 epochs, and 400 of 500 of the longest schedule


def make_optimiser(model: nn.Module, chosen: Settings, *, fresh_backbone: bool) -> AdamW:
    """Two groups of what is trained; a backbone that starts at random learns as fast as the rest."""
    lr_backbone = chosen.lr_backbone
    if lr_backbone is None:
        lr_backbone = chosen.lr if fresh_backbone else chosen.lr / 10
    groups = [
        {"name": name, "params": list(parameters), "lr": lr, "base": lr}
        for name, parameters, lr in (
            ("transformer", _trained(model, backbone=False), chosen.lr),
            ("backbone", _trained(model, backbone=True), lr_backbone),
        )
    ]
    return AdamW([group for group in groups if group["params"]], weight_decay=chosen.weight_decay)


def _trained(model: nn.Module, *, backbone: bool) -> Iterator[nn.Parameter]:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name.startswith("backbone.") == backbone:
            yield parameter


def set_rate(optimiser: AdamW, factor: float) -> None:
    """Each group's learning rate as a share of its own."""
    for group in optimiser.param_groups:
        group["lr"] = factor * group["base"]


def rate(chosen: Settings, step: int, steps_per_epoch: int) -> float:
    """The share of the learning rate that a step has, which follows from its number alone."""
    end = chosen.epochs * steps_per_epoch
    if step < chosen.warmup:
        return (step + 1) / (chosen.warmup + 1)
    if chosen.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - chosen.warmup) / max(1, end - chosen.warmup)))
    return DROP if step // steps_per_epoch >= round(DROP_AFTER * chosen.epochs) else 1.0


def count(parameters: Iterable[nn.Parameter]) -> int:
    """How many numbers."""
    return sum(parameter.numel() for parameter in parameters)
