"""What the benchmarks share: ways that are timed in turn, a table and a JSON line, and models to time."""

import ctypes
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from detrcli.architectures import preset
from detrcli.checkpoints.checkpoint import Checkpoint, classes_by_index

Way = Callable[[], Any]


def in_turn(
    ways: Mapping[str, Way], rounds: int, before: Callable[[str], None] = lambda name: None
) -> dict[str, list[float]]:
    """Seconds of each way, round by round: what disturbs one disturbs all. `before` prepares for a way, untimed."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(rounds + 1):
        for name, way in ways.items():
            before(name)
            began = time.perf_counter()
            way()
            if round_:  # the first fills caches
                seconds[name].append(time.perf_counter() - began)
    return seconds


def compared(seconds: Mapping[str, Sequence[float]], base: str) -> list[dict[str, Any]]:
    """Medians, and how many times as fast as `base` each way is: the median of the rounds' ratios."""
    return [
        {
            "way": name,
            "ms": round(1000 * statistics.median(spent), 2),
            "times": round(statistics.median(a / b for a, b in zip(seconds[base], spent, strict=True)), 2),
        }
        for name, spent in seconds.items()
    ]


def show(rows: Sequence[Mapping[str, Any]], **more: Any) -> None:
    """A table, then one JSON line with all of it."""
    columns = list(rows[0])
    cells = [columns, *([str(row[column]) for column in columns] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for row in cells:
        first, *rest = (
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join((first, *rest)))
    for name, value in more.items():
        print(f"{name}: {value}")
    print(json.dumps({"rows": rows, **more, "torch": torch.__version__, "threads": torch.get_num_threads()}))


def random_weights(model: str = "detr-r50") -> Checkpoint:
    """A model that has learned nothing; its speed is that of one that has."""
    architecture, config = preset(model)
    tensors = architecture.build(config).state_dict()
    classes = classes_by_index(config.classes)
    return Checkpoint("random", architecture, config, tensors, classes, architecture.preprocessing, architecture.loss)


def transformers_detr() -> nn.Module:
    """Transformers' DETR R50 with random weights."""
    import transformers
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    transformers.logging.set_verbosity_error()
    config = DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=ResNetConfig(out_features=["stage4"]),
        auxiliary_loss=True,
        num_labels=91,
        attention_dropout=0.1,
    )
    model: nn.Module = DetrForObjectDetection(config)
    return model


def transformers_learner() -> nn.Module:
    """The same in training, of which as much learns as in the published code; it would freeze the whole backbone."""
    model = transformers_detr().train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("embedder" not in name and "stages.0" not in name)
    return model


def allocator_as_it_is() -> None:
    """The allocator as programs find it: glibc gives large blocks back, and their pages come anew."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    # Where glibc's own thresholds end up, since they follow what was freed, as far as they go.
    for option, value in ((-3, 32 << 20), (-1, 64 << 20), (-2, 128 << 10)):
        libc.mallopt(option, value)
    libc.malloc_trim(0)
