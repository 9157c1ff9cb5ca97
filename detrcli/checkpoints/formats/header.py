"""All that tensors do not say, as strings: it stands in our files, in our folders, and in the states of trainings."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from detrcli.architectures import architecture_of, architectures
from detrcli.architectures.architecture import Architecture
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.config import LossConfig, Preprocessing
from detrcli.errors import DetrError, WeightsError
from detrcli.resize import Resize
from detrcli.structures import Classes

FORMAT = "detrcli/1"
CHECKSUM = "checksum"


def header_of(checkpoint: Checkpoint) -> dict[str, str]:
    """The header of these weights."""
    p = checkpoint.preprocessing
    return {
        "format": FORMAT,
        "variant": architecture_of(checkpoint.config).name,
        "config": json.dumps(asdict(checkpoint.config)),
        "classes": json.dumps(
            {name: value.tolist() for name, value in vars(checkpoint.classes).items() if value is not None}
        ),
        "preprocessing": json.dumps({**asdict(p), "resize": p.resize.facts()}),
        "loss": json.dumps(asdict(checkpoint.loss)),
    }


def from_header(header: Mapping[str, str], tensors: Mapping[str, Tensor], source: str) -> Checkpoint:
    """Create the checkpoint of a header and its tensors."""
    architecture = known_variant(header, source)
    try:
        classes = json.loads(header["classes"])
        return Checkpoint(
            source=source,
            config=architecture.config(**json.loads(header["config"])),
            tensors=tensors,
            classes=Classes.of(classes["ids"], classes["names"], classes.get("things")),
            preprocessing=_preprocessing(json.loads(header["preprocessing"])),
            loss=LossConfig(**json.loads(header["loss"])),
        )
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError, DetrError) as error:
        raise WeightsError(
            f"{source}: written by another version of detr, or by another program ({error!s:.200}).\n"
            "Update detr, or save it again."
        ) from None


def known_variant(header: Mapping[str, str], source: str) -> Architecture[Any]:
    """The member that a header names."""
    if "format" not in header:
        raise WeightsError(f"{source}: its header cannot be read: it names no format.\nFetch or save it again.")
    if header["format"] != FORMAT:
        raise WeightsError(
            f"{source}: written by another version of detr ({header['format']!s:.40}, not {FORMAT}).\n"
            "Update detr, or save it again."
        )
    architecture = architectures().get(str(header.get("variant")))
    if architecture is None:
        raise WeightsError(
            f"{source}: holds a model of a kind that is not known here ({header.get('variant')!r:.40}).\n"
            "Update detr, or install the package that this model comes from."
        )
    return architecture


def checksum(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of header and tensors: names, kinds, shapes and every byte."""
    digest = hashlib.sha256()
    for key in sorted(header.keys() - {CHECKSUM}):
        digest.update(f"{key}={header[key]}\n".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(dtype=torch.uint8).numpy().data)
    return digest.hexdigest()


def _preprocessing(facts: dict[str, Any]) -> Preprocessing:
    rule = Resize.of(facts["resize"])
    return Preprocessing(**{**facts, "resize": rule, "mean": tuple(facts["mean"]), "std": tuple(facts["std"])})
