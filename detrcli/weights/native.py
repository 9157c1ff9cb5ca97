"""Our own file: one .safetensors with the tensors, and in its header all that it takes to use them.

The header also holds a checksum over everything, since safetensors itself loads a file with flipped bits.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from detrcli.config import Preprocessing
from detrcli.errors import DetrError, WeightsError
from detrcli.structures import Classes
from detrcli.variants.detr import DETRConfig
from detrcli.weights.weights import Weights

FORMAT = "detrcli/1"
VARIANT = "detr"


def save(weights: Weights, path: Path) -> None:
    """Write the file; it has its name only once it is whole."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.tensors.items()}
    header = {
        "format": FORMAT,
        "variant": VARIANT,
        "config": json.dumps(asdict(weights.config)),
        "classes": json.dumps({"ids": weights.classes.ids.tolist(), "names": weights.classes.names.tolist()}),
        "preprocessing": json.dumps(asdict(weights.preprocessing)),
    }
    header["checksum"] = checksum(header, tensors)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        # Written by us, since safetensors makes files that only their owner can read.
        temporary.write_bytes(to_bytes(tensors, header))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path, source: str) -> Weights:
    """Read such a file, and refuse it if a bit of it has changed."""
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
    except SafetensorError as error:
        raise WeightsError(f"{source}: this is no whole safetensors file ({error}).") from None
    if not header.get("format", "").startswith("detrcli/"):
        raise WeightsError(
            f"{source}: this safetensors file is not one of detr's: it lacks the model's config and classes.\n"
            "For a Hugging Face model give its folder, with config.json."
        )
    if header["format"] != FORMAT:
        raise WeightsError(
            f"{source}: written by another version of detr ({header['format']}, not {FORMAT})."
        )
    if header.get("variant") != VARIANT:
        raise WeightsError(f"{source}: holds a model of a kind that this version does not know.")
    if checksum(header, tensors) != header.get("checksum"):
        raise WeightsError(f"{source}: the file is damaged: its contents do not fit its checksum.")
    try:
        classes = json.loads(header["classes"])
        preprocessing = json.loads(header["preprocessing"])
        return Weights(
            source=source,
            config=DETRConfig(**json.loads(header["config"])),
            tensors=tensors,
            classes=Classes(ids=np.array(classes["ids"], dtype=np.int64), names=np.array(classes["names"])),
            preprocessing=Preprocessing(
                size=preprocessing["size"],
                max_size=preprocessing["max_size"],
                mean=tuple(preprocessing["mean"]),
                std=tuple(preprocessing["std"]),
            ),
        )
    except (KeyError, TypeError, ValueError, DetrError) as error:
        raise WeightsError(f"{source}: written by another version of detr ({error}).") from None


def checksum(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of header and tensors: names, kinds, shapes and every byte."""
    digest = hashlib.sha256()
    for key in sorted(header.keys() - {"checksum"}):
        digest.update(f"{key}={header[key]}\n".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(dtype=torch.uint8).numpy().data)
    return digest.hexdigest()
