"""Saving a checkpoint under a name, as a file or as a folder, depending on its architecture.

A folder contains the files of the architecture, and our header beside them.
"""

import json
from pathlib import Path

from safetensors import SafetensorError

from detrcli.architectures.architecture import FolderArchitecture
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.formats import native
from detrcli.checkpoints.formats.header import CHECKSUM, architecture_in, checksum, from_header, header_of
from detrcli.errors import WeightsError
from detrcli.system.files import whole_folder, write_whole_folder

HEADER = "detrcli.json"


def save(checkpoint: Checkpoint, folder: Path, name: str) -> Path:
    """Write the checkpoint into a folder, completely or not at all, replacing one of the same name."""
    architecture = checkpoint.architecture
    if not isinstance(architecture, FolderArchitecture):
        path = folder / f"{name}{native.ENDING}"
        native.save(checkpoint, path)
        return path
    tensors = native.storable(checkpoint.tensors)
    header = header_of(checkpoint)
    header[CHECKSUM] = checksum(header, tensors)
    files = architecture.write(checkpoint.config, tensors, checkpoint.classes, checkpoint.preprocessing)
    write_whole_folder(folder / name, {**files, HEADER: json.dumps(header, indent=2).encode()})
    return folder / name


def find(folder: Path, name: str) -> Path | None:
    """Return the path of a checkpoint that `save` wrote, if it exists."""
    file = folder / f"{name}{native.ENDING}"
    if file.is_file():
        return file
    return folder / name if is_folder(folder / name) else None


def is_folder(path: Path) -> bool:
    """Return whether a checkpoint was saved as this folder."""
    return (whole_folder(path) / HEADER).is_file()


def load_folder(path: Path, source: str) -> Checkpoint:
    """Read a checkpoint that was saved as a folder. Raises WeightsError if a bit of it has changed."""
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
    if checksum(header, tensors) != header.get(CHECKSUM):
        raise WeightsError(f"{source}: the folder is damaged: its content does not match its checksum.")
    return from_header(header, tensors, source)
