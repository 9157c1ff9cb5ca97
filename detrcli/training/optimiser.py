"""AdamW with a slower backbone, and the learning rate's course."""

import math
from collections.abc import Iterable, Mapping, Sequence

from torch import nn
from torch.optim import AdamW

from detrcli.training.settings import Settings

BACKBONE = "backbone"  # the group that learns more slowly
DROP_AFTER, DROP = 2 / 3, 0.1  # published: 200 of 300 epochs, and 400 of 500 of the longest schedule


def make_optimiser(groups: Mapping[str, Sequence[nn.Parameter]], settings: Settings, *, fresh_backbone: bool) -> AdamW:
    """The groups of what is trained; a backbone that starts at random learns as fast as the rest."""
    lr_backbone = settings.lr_backbone
    if lr_backbone is None:
        lr_backbone = settings.lr if fresh_backbone else settings.lr / 10
    rates = {name: lr_backbone if name == BACKBONE else settings.lr for name in groups}
    return AdamW(
        [
            {"name": name, "params": own, "lr": rates[name], "base": rates[name], "weight_decay": decay}
            for name, parameters in groups.items()
            for own, decay in _by_decay(parameters, settings)
            if own
        ],
        betas=(0.9, settings.beta2),
        fused=True,  # one pass over the weights in place of seven
    )


def _by_decay(parameters: Sequence[nn.Parameter], settings: Settings) -> Sequence[tuple[list[nn.Parameter], float]]:
    """All with the same weight decay, or matrices apart from vectors, which have none."""
    if settings.weight_decay_on == "all":
        return [(list(parameters), settings.weight_decay)]
    matrices, vectors = ([p for p in parameters if (p.dim() > 1) == several] for several in (True, False))
    return [(matrices, settings.weight_decay), (vectors, 0.0)]


def set_rate(optimiser: AdamW, factor: float) -> None:
    """Each group's learning rate as a share of its own."""
    for group in optimiser.param_groups:
        group["lr"] = factor * group["base"]


def rate(settings: Settings, step: int, steps_per_epoch: int) -> float:
    """The share of the learning rate that a step has, which follows from its number alone."""
    end = settings.epochs * steps_per_epoch
    if step < settings.warmup:
        return (step + 1) / (settings.warmup + 1)
    if settings.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - settings.warmup) / max(1, end - settings.warmup)))
    return DROP if step // steps_per_epoch >= round(DROP_AFTER * settings.epochs) else 1.0


def count(parameters: Iterable[nn.Parameter]) -> int:
    """How many numbers."""
    return sum(parameter.numel() for parameter in parameters)
