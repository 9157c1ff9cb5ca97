"""Our own file format: a .safetensors file with a header of ours, which has a checksum of everything.

safetensors itself loads files with flipped bits.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.formats.header import CHECKSUM, architecture_in, checksum, from_header, header_of
from detrcli.checkpoints.formats.published import check_tensors
from detrcli.errors import WeightsError
from detrcli.system.files import write_whole

ENDING = ".safetensors"


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write the file. safetensors' own function would make it readable for its owner alone."""
    tensors = storable(checkpoint.tensors)
    header = header_of(checkpoint)
    header[CHECKSUM] = checksum(header, tensors)
    write_whole(path, in_order(to_bytes(tensors, header)))


def storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors on the CPU, contiguous and detached."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def in_order(file: bytes) -> bytes:
    """Sort the keys of a file's header, whose order is random, so that equal checkpoints are equal files."""
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.dumps(json.loads(file[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # aligns the tensors
    return len(header).to_bytes(8, "little") + header + file[end:]


def load(path: Path, source: str) -> Checkpoint:
    """Read a file. Raises WeightsError if a bit of it has changed."""
    header, tensors = _read(path, source)
    if not header.get("format", "").startswith("detrcli/"):
        raise WeightsError(
            f"{source}: this safetensors file was not written by detr: it has no config and classes.\n"
            "For a Hugging Face model, give its folder with config.json."
        )
    architecture_in(header, source)  # before the checksum, which another version may compute in another way
    _check(header, tensors, source)
    return from_header(header, tensors, source)


def load_part(path: Path, source: str) -> dict[str, Tensor]:
    """Read a file that contains a part of a model's tensors and a checksum, as that of a shipped mask head."""
    header, tensors = _read(path, source)
    _check(header, tensors, source)
    return tensors


def _read(path: Path, source: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except SafetensorError as error:
        raise WeightsError(
            f"{source}: not a complete safetensors file ({error}).\n"
            "It is damaged, or its download was interrupted. Download or save it again."
        ) from None
    return header, tensors


def _check(header: Mapping[str, str], tensors: dict[str, Tensor], source: str) -> None:
    check_tensors(tensors, source)
    if checksum(header, tensors) != header.get(CHECKSUM):
        raise WeightsError(
            f"{source}: the file is damaged: its content does not match its checksum.\nDownload or save it again."
        )
