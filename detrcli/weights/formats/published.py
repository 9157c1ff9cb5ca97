"""Checkpoints as the published training script writes them: a pickle with a state dict, bare or under "model"."""

import argparse
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detrcli.config import Preprocessing
from detrcli.errors import WeightsError
from detrcli.weights.formats.names import PUBLISHED, rename
from detrcli.weights.weights import Weights, classes_by_index, infer_config


def load(path: Path, source: str, *, dilated: bool | None = None) -> Weights:
    """Read such a file. Tensors do not show DC5: `dilated` says it, else the file's `args`, else its name."""
    checkpoint = read_pickle(path, source)
    args = checkpoint.get("args")
    settings: dict[str, Any] = vars(args) if isinstance(args, argparse.Namespace) else {}
    inner = checkpoint.get("model", checkpoint)
    state = inner if isinstance(inner, Mapping) else {}
    tensors = {
        rename(name, PUBLISHED): value
        for name, value in state.items()
        if isinstance(value, Tensor) and not name.endswith("num_batches_tracked")
    }

    known: dict[str, Any] = {}
    if "nheads" in settings:
        known["heads"] = settings["nheads"]
    if isinstance(settings.get("dropout"), float):
        known["dropout"] = settings["dropout"]
    if dilated is None:
        dilated = bool(settings["dilation"]) if "dilation" in settings else "dc5" in path.name.lower()
    config = infer_config(source, tensors, {**known, "dilated": dilated})
    return Weights(source, config, tensors, classes_by_index(config.classes), Preprocessing())


def read_pickle(path: Path, source: str) -> Mapping[str, Any]:
    """Unpickle tensors, plain values and argparse's Namespace; anything else is refused and does not run."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            # Mapped where the format allows it, so that only what is used is read.
            mapped = zipfile.is_zipfile(path)
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it asks for {wanted[1]}" if wanted else "it is no plain pickle of tensors"
        raise WeightsError(
            f"{source}: refused, and nothing of it was run: {what}.\n"
            "Only tensors, plain values and argparse.Namespace are read from a pickle."
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{source}: this file cannot be read as PyTorch weights ({first}).") from None
    if not isinstance(checkpoint, Mapping):
        raise WeightsError(f"{source}: this file holds a {type(checkpoint).__name__}, not a state dict.")
    return checkpoint
