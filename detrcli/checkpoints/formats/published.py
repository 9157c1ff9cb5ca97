"""Pickles of the published training scripts: a state dict, bare or under "model"."""

import argparse
import pickle
import re
import types
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detrcli.architectures import Preset, architectures
from detrcli.architectures.architecture import Architecture, StateDictAdapter
from detrcli.checkpoints.checkpoint import Checkpoint, classes_by_index
from detrcli.errors import WeightsError
from detrcli.structures import Classes

Candidate = tuple[Architecture[Any], StateDictAdapter[Any]]
DTYPES = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool}
    | {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}
)


def load(path: Path, source: str, wanted: Preset | None = None) -> Checkpoint:
    """Read a file; `wanted` is the preset that the user named."""
    content = read_pickle(path, source)
    try:
        _check_nested(content, source)
        for known in architectures().values():
            if model := known.read_checkpoint(content, path.name, source):
                count = model.config.classes
                names = [model.names.get(index, f"class {index}") for index in range(count)]
                classes = Classes.of(range(count), names) if model.names else classes_by_index(count)
                return Checkpoint(source, known, model.config, model.tensors, classes, model.preprocessing, known.loss)
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{source}: the contents of this checkpoint are not valid ({error!s:.200}).") from None
    args = content.get("args")
    facts: dict[str, Any] = vars(args) if isinstance(args, argparse.Namespace) else {}
    theirs = state_dict_in(content, source)
    candidates = [(known, known.published) for known in architectures().values() if known.published is not None]
    # If no adapter recognizes the tensors, that of the wanted or of the first architecture reports what is missing.
    fallback = [pair for pair in candidates if wanted is not None and pair[0] is wanted.architecture] or candidates
    architecture, adapter = recognize(candidates, theirs) or fallback[0]
    tensors = adapter.rename(theirs)
    config = wanted.config if wanted is not None and wanted.architecture is architecture else None
    config = adapter.infer(source, tensors, {**facts, "file": path.name}, config)
    classes = classes_by_index(config.classes)
    return Checkpoint(source, architecture, config, tensors, classes, architecture.preprocessing, architecture.loss)


def recognize(candidates: Sequence[Candidate], tensors: Mapping[str, Tensor]) -> Candidate | None:
    """Return the architecture of the tensors. Later architectures extend earlier ones."""
    return next((pair for pair in reversed(candidates) if pair[1].recognizes(tensors.keys())), None)


def state_dict_in(content: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """Return the tensors of a state dict, bare or under "model"."""
    inner = content.get("model", content)
    values = inner if isinstance(inner, Mapping) else {}
    return check_tensors({name: value for name, value in values.items() if isinstance(value, Tensor)}, source)


def read_pickle(path: Path, source: str) -> Mapping[str, Any]:
    """Unpickle tensors, plain values and argparse.Namespace. Anything else is refused, and no code runs."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace, types.SimpleNamespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about kinds of tensors that are refused
            # Memory-mapped where the format allows it, so that only what is used is read.
            mapped = zipfile.is_zipfile(path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it contains {name[1]}" if name else "it is not a plain pickle of tensors"
        raise WeightsError(
            f"{source}: refused without running any of it: {reason}.\n"
            "Only tensors, plain values and namespaces are read from a pickle."
        ) from None
    except PermissionError:
        raise
    except Exception as error:  # torch raises all kinds of errors for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"{source}: this file cannot be read as PyTorch weights ({reason:.200}).\n"
            "It is damaged, or its download was interrupted. Download or save it again."
        ) from None
    if not isinstance(content, Mapping):
        raise WeightsError(f"{source}: this file contains a {type(content).__name__} instead of a state dict.")
    return content


def _check_nested(content: Mapping[str, Any], source: str) -> None:
    """Check the tensors of a checkpoint at all depths."""
    check_tensors({name: value for name, value in content.items() if isinstance(value, Tensor)}, source)
    for value in content.values():
        if isinstance(value, Mapping):
            _check_nested(value, source)


def check_tensors(tensors: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return the tensors. Raises WeightsError for a name or a tensor that no model has, before it takes memory."""
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise WeightsError(
                f"{source}: a tensor has the name {name!r:.40}, which is not a string.\nSave the model's state_dict()."
            )
        reason = ""
        if tensor.layout != torch.strided or tensor.is_nested:
            reason = "is sparse or nested"
        elif tensor.is_quantized or tensor.dtype not in DTYPES:
            reason = f"is of {str(tensor.dtype).removeprefix('torch.')}"
        elif tensor.device.type != "cpu":
            reason = f"is on the device {tensor.device.type}, without its numbers"
        elif tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            reason = f"has {tensor.numel():,} numbers, more than the file"  # a stride of 0 repeats numbers
        if reason:
            raise WeightsError(
                f"{source}: the tensor {name:.80} {reason}.\n"
                "Save the model's state_dict() in float32, float16 or bfloat16, on the CPU."
            )
    return tensors
