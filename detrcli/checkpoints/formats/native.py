"""Our own formats: a .safetensors file with a header of ours, or a folder, depending on the architecture.

A folder contains the files of the architecture, and our header beside them. The header has a checksum of everything,
since safetensors itself loads files with flipped bits.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from detrcli.architectures.architecture import FolderArchitecture
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.formats.header import CHECKSUM, architecture_in, checksum, from_header, header_of
from detrcli.checkpoints.formats.published import check_tensors
from detrcli.errors import WeightsError
from detrcli.system.files import whole_folder, write_whole, write_whole_folder

ENDING = ".safetensors"
HEADER = "detrcli.json"  # in a folder


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write the file. `save_file` of safetensors would make it readable by its owner only."""
    header, tensors = _parts(checkpoint)
    write_whole(path, with_sorted_header(to_bytes(tensors, header)))


def save_as(checkpoint: Checkpoint, folder: Path, name: str) -> Path:
    """Write a file or a folder of this name into the folder, completely or not at all. It replaces an existing one."""
    architecture = checkpoint.architecture
    if not isinstance(architecture, FolderArchitecture):
        path = folder / f"{name}{ENDING}"
        save(checkpoint, path)
        return path
    header, tensors = _parts(checkpoint)
    files = architecture.write(checkpoint.config, tensors, checkpoint.classes, checkpoint.preprocessing)
    write_whole_folder(folder / name, {**files, HEADER: json.dumps(header, indent=2).encode()})
    return folder / name


def _parts(checkpoint: Checkpoint) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the header with its checksum, and the tensors on the CPU, contiguous and detached."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    header = header_of(checkpoint)
    return {**header, CHECKSUM: checksum(header, tensors)}, tensors


def with_sorted_header(file: bytes) -> bytes:
    """Sort the keys of a file's header, whose order is random, so that equal checkpoints are equal files."""
    end = 8 + int.from_bytes(file[:8], "little")  # the file starts with the header's length in 8 bytes
    header = json.dumps(json.loads(file[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # aligns the tensors
    return len(header).to_bytes(8, "little") + header + file[end:]


def find(folder: Path, name: str) -> Path | None:
    """Return the path of a checkpoint that `save_as` wrote, if it exists."""
    file = folder / f"{name}{ENDING}"
    if file.is_file():
        return file
    return folder / name if is_folder(folder / name) else None


def is_folder(path: Path) -> bool:
    return (whole_folder(path) / HEADER).is_file()


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


def load_folder(path: Path, source: str) -> Checkpoint:
    """Read a folder. Raises WeightsError if a bit of it has changed."""
    path = whole_folder(path)
    try:
        header: dict[str, str] = json.loads((path / HEADER).read_text(encoding="utf-8"))
        architecture = architecture_in(header, source)
        if not isinstance(architecture, FolderArchitecture):
            raise WeightsError(f"{source}: a {architecture.name} is not stored as a folder.")
        tensors = architecture.read_tensors(path)
    except PermissionError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise WeightsError(f"{source}: this folder cannot be read ({error}).") from None
    _check(header, tensors, source)
    return from_header(header, tensors, source)


def load_part(path: Path, source: str) -> dict[str, Tensor]:
    """Read a file with a part of a model's tensors and a checksum, such as that of a built-in mask head."""
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
        raise WeightsError(f"{source}: damaged: the content does not match its checksum.\nDownload or save it again.")
