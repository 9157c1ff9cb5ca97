"""AdamW with parameter groups, and the learning rate schedule."""

import math
from collections.abc import Iterable, Mapping, Sequence

from torch import nn
from torch.optim import AdamW

from detrcli.training.settings import Settings

BACKBONE = "backbone"  # the group with a learning rate of its own
DROP_AFTER, DROP = 2 / 3, 0.1  # published: after 200 of 300 epochs, and 400 of 500 in the longest schedule


def make_optimizer(groups: Mapping[str, Sequence[nn.Parameter]], settings: Settings, *, fresh_backbone: bool) -> AdamW:
    """Create the optimizer. By default a trained backbone has a tenth of the learning rate."""
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
        fused=True,  # a single pass over the weights instead of seven
    )


def _by_decay(parameters: Sequence[nn.Parameter], settings: Settings) -> Sequence[tuple[list[nn.Parameter], float]]:
    if settings.weight_decay_on == "all":
        return [(list(parameters), settings.weight_decay)]
    matrices = [parameter for parameter in parameters if parameter.dim() > 1]
    vectors = [parameter for parameter in parameters if parameter.dim() <= 1]
    return [(matrices, settings.weight_decay), (vectors, 0.0)]


def set_rate(optimizer: AdamW, factor: float) -> None:
    """Set each group's learning rate to a share of its base rate."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["base"]


def rate(settings: Settings, step: int, steps_per_epoch: int) -> float:
    """Return the share of the base learning rate in a step."""
    end = settings.epochs * steps_per_epoch
    if step < settings.warmup:
        return (step + 1) / (settings.warmup + 1)
    if settings.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - settings.warmup) / max(1, end - settings.warmup)))
    return DROP if step // steps_per_epoch >= round(DROP_AFTER * settings.epochs) else 1.0


def count(parameters: Iterable[nn.Parameter]) -> int:
    """Return the number of elements."""
    return sum(parameter.numel() for parameter in parameters)
