"""Our own file: one .safetensors with the tensors, and in its header all that it takes to use them.

The header also holds a checksum over everything, since safetensors itself loads a file with flipped bits.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from detrcli.config import Preprocessing
from detrcli.errors import DetrError, WeightsError
from detrcli.structures import Classes
from detrcli.system.files import write_whole
from detrcli.variants import KINDS, kind_of
from detrcli.variants.variant import Kind
from detrcli.weights.weights import Weights

FORMAT = "detrcli/1"


def save(weights: Weights, path: Path) -> None:
    """Write the file."""
    write_whole(path, to_file(weights))


def to_file(weights: Weights) -> bytes:
    """What stands in the file. Written by us, since safetensors makes files that only their owner can read."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.tensors.items()}
    header = header_of(weights)
    header["checksum"] = checksum(header, tensors)
    return _in_order(to_bytes(tensors, header))


def _in_order(file: bytes) -> bytes:
    """With the keys of its header sorted: safetensors shuffles them, and equal weights should be equal files."""
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.dumps(json.loads(file[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the tensors behind it stay aligned
    return len(header).to_bytes(8, "little") + header + file[end:]


def header_of(weights: Weights) -> dict[str, str]:
    """All that tensors do not say, as strings."""
    return {
        "format": FORMAT,
        "variant": kind_of(weights.config).name,
        "config": json.dumps(asdict(weights.config)),
        "classes": json.dumps({"ids": weights.classes.ids.tolist(), "names": weights.classes.names.tolist()}),
        "preprocessing": json.dumps(asdict(weights.preprocessing)),
    }


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
    _kind(header, source)  # before the checksum: another version may have another
    if checksum(header, tensors) != header.get("checksum"):
        raise WeightsError(f"{source}: the file is damaged: its contents do not fit its checksum.")
    return from_header(header, tensors, source)


def from_header(header: Mapping[str, str], tensors: Mapping[str, Tensor], source: str) -> Weights:
    """Weights of such a header and its tensors."""
    kind = _kind(header, source)
    try:
        classes = json.loads(header["classes"])
        preprocessing = json.loads(header["preprocessing"])
        return Weights(
            source=source,
            config=kind.config(**json.loads(header["config"])),
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


def _kind(header: Mapping[str, str], source: str) -> Kind[Any]:
    if header["format"] != FORMAT:
        raise WeightsError(
            f"{source}: written by another version of detr ({header['format']}, not {FORMAT})."
        )
    kind = KINDS.get(header.get("variant", ""))
    if kind is None:
        raise WeightsError(f"{source}: holds a model of a kind that this version does not know.")
    return kind


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
