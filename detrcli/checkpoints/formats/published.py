"""Checkpoints as the published training scripts write them: a pickle with a state dict, bare or under "model"."""

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detrcli.architectures import architecture_of, architectures
from detrcli.architectures.architecture import Architecture, StateDictAdapter
from detrcli.checkpoints.checkpoint import Checkpoint, classes_by_index
from detrcli.checkpoints.formats.tensors import tensors_in
from detrcli.config import ModelConfig
from detrcli.errors import WeightsError


def load(path: Path, source: str, wanted: ModelConfig | None = None) -> Checkpoint:
    """Read such a file; `wanted` is the model that it is said to be."""
    checkpoint = read_pickle(path, source)
    args = checkpoint.get("args")
    facts: dict[str, Any] = vars(args) if isinstance(args, argparse.Namespace) else {}
    inner = checkpoint.get("model", checkpoint)
    theirs = tensors_in(inner if isinstance(inner, Mapping) else {}, source)

    architecture, names = _whose(theirs, wanted)
    tensors = names.rename(theirs)
    same = wanted if isinstance(wanted, architecture.config) else None
    config = names.infer(source, tensors, {**facts, "file": path.name}, same)
    return Checkpoint(
        source, config, tensors, classes_by_index(config.classes), architecture.preprocessing, architecture.loss
    )


def _whose(theirs: Mapping[str, Tensor], wanted: ModelConfig | None) -> tuple[Architecture[Any], StateDictAdapter[Any]]:
    """The member whose names these are; else the one that they are said to be, which explains what is missing."""
    kept_so = [(v, v.published) for v in architectures().values() if v.published is not None]
    known = [(v, names) for v, names in kept_so if names.known_by(theirs.keys())]
    if not known and wanted is not None:
        known = [(v, names) for v, names in kept_so if v is architecture_of(wanted)]
    return (known or kept_so)[0]


def read_pickle(path: Path, source: str) -> Mapping[str, Any]:
    """Unpickle tensors, plain values and argparse's Namespace; anything else is refused and does not run."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of kinds of tensors that are refused anyway
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
    except PermissionError:
        raise
    except Exception as error:  # there is nothing that torch's reader does not raise for a broken file
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"{source}: this file cannot be read as PyTorch weights ({first:.200}).\n"
            "It may be damaged, or half a download: fetch or save it again."
        ) from None
    if not isinstance(checkpoint, Mapping):
        raise WeightsError(f"{source}: this file holds a {type(checkpoint).__name__}, not a state dict.")
    return checkpoint
