"""Shared by the examples: timing in turn, tables with a JSON line, models with random weights, and COCO files."""

import ctypes
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detrcli.architectures import preset
from detrcli.checkpoints.checkpoint import Checkpoint, classes_by_index

Way = Callable[[], Any]


def in_turn(
    ways: Mapping[str, Way],
    rounds: int,
    before: Callable[[str], None] = lambda name: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the seconds of each way, by round. Ways alternate, so that disturbances affect all of them.

    `before` prepares for a way and is not timed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(rounds + 1):
        for name, way in ways.items():
            before(name)
            start = clock()
            way()
            if round_:  # the first round fills caches
                seconds[name].append(clock() - start)
    return seconds


def compared(seconds: Mapping[str, Sequence[float]], base: str) -> list[dict[str, Any]]:
    """Return the median of each way, and its speedup over `base`: the median of the ratios of the rounds."""
    return [
        {
            "way": name,
            "ms": round(1000 * statistics.median(spent), 2),
            "times": round(statistics.median(a / b for a, b in zip(seconds[base], spent, strict=True)), 2),
        }
        for name, spent in seconds.items()
    ]


def show(rows: Sequence[Mapping[str, Any]], **more: Any) -> None:
    """Print a table, then everything as one JSON line."""
    columns = list(rows[0])
    cells = [columns, *([str(row[column]) for column in columns] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for first, *rest in cells:
        aligned = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        print("  ".join((first.ljust(widths[0]), *aligned)))
    for name, value in more.items():
        print(f"{name}: {value}")
    print(json.dumps({"rows": rows, **more, "torch": torch.__version__, "threads": torch.get_num_threads()}))


def show_values(values: Mapping[str, float]) -> None:
    """Print a line for each value, then all of them as one JSON line."""
    for name, value in values.items():
        print(f"{name:<36} {value:>12,}")
    print(json.dumps(values))


def random_weights(model: str = "detr-r50") -> Checkpoint:
    """Return an untrained model, which is as fast as a trained one."""
    architecture, config = preset(model)
    tensors = architecture.build(config).state_dict()
    classes = classes_by_index(config.classes)
    return Checkpoint("random", architecture, config, tensors, classes, architecture.preprocessing, architecture.loss)


def transformers_detr() -> nn.Module:
    """Return the DETR R50 of transformers with random weights."""
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
    """Return the same model in training mode with the published frozen layers; transformers freezes the backbone."""
    model = transformers_detr().train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("embedder" not in name and "stages.0" not in name)
    return model


def allocator_as_it_is() -> None:
    """Restore glibc's default behavior: large blocks are returned to the kernel and allocated again."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    # The values that glibc's dynamic thresholds reach at most.
    for option, value in ((-3, 32 << 20), (-1, 64 << 20), (-2, 128 << 10)):
        libc.mallopt(option, value)
    libc.malloc_trim(0)


def write_coco(folder: Path, split: str, images: list[Any], annotations: list[Any], categories: list[Any]) -> None:
    """Write the COCO annotation file of a split."""
    path = folder / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(document), encoding="utf-8")
