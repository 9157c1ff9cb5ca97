"""The header of a checkpoint: everything but the tensors, as strings. Files, folders and training states contain it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from detrcli.architectures import architectures
from detrcli.architectures.architecture import Architecture
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.config import LossConfig, Preprocessing
from detrcli.errors import DetrError, WeightsError
from detrcli.resize import Resize
from detrcli.structures import Classes

FORMAT = "detrcli/1"
CHECKSUM = "checksum"


def header_of(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the header of a checkpoint, without the checksum."""
    preprocessing = {**asdict(checkpoint.preprocessing), "resize": checkpoint.preprocessing.resize.facts()}
    classes = {name: value.tolist() for name, value in vars(checkpoint.classes).items() if value is not None}
    return {
        "format": FORMAT,
        "variant": checkpoint.architecture.name,  # its key in this file format
        "config": json.dumps(asdict(checkpoint.config)),
        "classes": json.dumps(classes),
        "preprocessing": json.dumps(preprocessing),
        "loss": json.dumps(asdict(checkpoint.loss)),
    }


def from_header(header: Mapping[str, str], tensors: Mapping[str, Tensor], source: str) -> Checkpoint:
    """Return the checkpoint with this header and these tensors."""
    architecture = architecture_in(header, source)
    try:
        classes, values = json.loads(header["classes"]), json.loads(header["preprocessing"])
        values |= {"resize": Resize.of(values["resize"]), "mean": tuple(values["mean"]), "std": tuple(values["std"])}
        return Checkpoint(
            source,
            architecture,
            architecture.config(**{key: _as_tuple(value) for key, value in dict(json.loads(header["config"])).items()}),
            tensors,
            Classes.of(classes["ids"], classes["names"], classes.get("things")),
            Preprocessing(**values),
            LossConfig(**json.loads(header["loss"])),
        )
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError, DetrError) as error:
        raise WeightsError(
            f"{source}: written by another version of detr, or by another program ({error!s:.200}).\n"
            "Update detr, or save it again."
        ) from None


def _as_tuple(value: Any) -> Any:
    """Convert JSON lists, also nested ones, to the tuples of configs."""
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def architecture_in(header: Mapping[str, str], source: str) -> Architecture[Any]:
    """Return the architecture that a header names."""
    if header.get("format") != FORMAT:
        raise WeightsError(
            f"{source}: written by another version of detr (format {header.get('format')!s:.40}, not {FORMAT}).\n"
            "Update detr, or save it again."
        )
    architecture = architectures().get(str(header.get("variant")))
    if architecture is None:
        raise WeightsError(
            f"{source}: its architecture {header.get('variant')!r:.40} is unknown.\n"
            "Update detr, or install the package that contains the architecture."
        )
    return architecture


def checksum(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of header and tensors: names, dtypes, shapes and every byte."""
    digest = hashlib.sha256()
    for key in sorted(header.keys() - {CHECKSUM}):
        digest.update(f"{key}={header[key]}\n".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(dtype=torch.uint8).numpy().data)
    return digest.hexdigest()
