"""Our own file: one .safetensors with the tensors, and in its header all that it takes to use them.

The header also holds a checksum over everything, since safetensors itself loads a file with flipped bits.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.formats.header import CHECKSUM, checksum, from_header, header_of, known_variant
from detrcli.checkpoints.formats.tensors import tensors_in
from detrcli.errors import WeightsError
from detrcli.system.files import write_whole

ENDING = ".safetensors"


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write the file."""
    write_whole(path, to_file(checkpoint))


def to_file(checkpoint: Checkpoint) -> bytes:
    """What stands in the file. Written by us, since safetensors makes files that only their owner can read."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    header = header_of(checkpoint)
    header[CHECKSUM] = checksum(header, tensors)
    return in_order(to_bytes(tensors, header))


def in_order(file: bytes) -> bytes:
    """With the keys of its header sorted: safetensors shuffles them, and equal weights should be equal files."""
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.dumps(json.loads(file[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the tensors behind it stay aligned
    return len(header).to_bytes(8, "little") + header + file[end:]


def part_to_file(tensors: Mapping[str, Tensor]) -> bytes:
    """A file of some tensors of a model, with a checksum and nothing else."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return in_order(to_bytes(whole, {CHECKSUM: checksum({}, whole)}))


def load_part(path: Path, source: str) -> dict[str, Tensor]:
    """The tensors of such a file, if no bit of it has changed."""
    header, found = _read(path, source)
    tensors = tensors_in(found, source)
    _check(header, tensors, source)
    return tensors


def load(path: Path, source: str) -> Checkpoint:
    """Read such a file, and refuse it if a bit of it has changed."""
    header, found = _read(path, source)
    if not header.get("format", "").startswith("detrcli/"):
        raise WeightsError(
            f"{source}: this safetensors file is not one of detr's: it lacks the model's config and classes.\n"
            "For a Hugging Face model give its folder, with config.json."
        )
    known_variant(header, source)  # before the checksum: another version may have another
    tensors = tensors_in(found, source)
    _check(header, tensors, source)
    return from_header(header, tensors, source)


def _read(path: Path, source: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, str] = file.metadata() or {}
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
    except SafetensorError as error:
        raise WeightsError(
            f"{source}: this is no whole safetensors file ({error}).\n"
            "It may be damaged, or half a download: fetch or save it again."
        ) from None


def _check(header: Mapping[str, str], tensors: Mapping[str, Tensor], source: str) -> None:
    if checksum(header, tensors) != header.get(CHECKSUM):
        raise WeightsError(
            f"{source}: the file is damaged: its contents do not fit its checksum.\nFetch or save it again."
        )
