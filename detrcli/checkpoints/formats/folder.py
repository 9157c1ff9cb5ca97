"""Our own folder, for members that one file does not hold: their files, and beside these our header."""

import json
from pathlib import Path

from safetensors import SafetensorError

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.formats.header import CHECKSUM, checksum, from_header, header_of, known_variant
from detrcli.errors import WeightsError
from detrcli.system.files import whole_folder, write_whole_folder

HEADER = "detrcli.json"


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write the folder, whole or not at all; one of that name is replaced."""
    own = checkpoint.architecture.folder
    assert own is not None, checkpoint.architecture.name
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    header = header_of(checkpoint)
    header[CHECKSUM] = checksum(header, tensors)
    facts = json.dumps(header, indent=2).encode()
    own_files = own.write(checkpoint.config, tensors, checkpoint.classes, checkpoint.preprocessing)
    write_whole_folder(path, {**own_files, HEADER: facts})


def is_one(path: Path) -> bool:
    """Whether this is such a folder."""
    return (whole_folder(path) / HEADER).is_file()


def load(path: Path, source: str) -> Checkpoint:
    """Read such a folder, and refuse it if a bit of its tensors has changed."""
    path = whole_folder(path)
    try:
        header: dict[str, str] = json.loads((path / HEADER).read_text(encoding="utf-8"))
        architecture = known_variant(header, source)
        if architecture.folder is None:
            raise WeightsError(f"{source}: a {architecture.name} is not kept as a folder.")
        tensors = architecture.folder.read(path)
    except PermissionError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise WeightsError(f"{source}: this folder cannot be read ({error}).") from None
    if checksum(header, tensors) != header.get(CHECKSUM):
        raise WeightsError(f"{source}: the folder is damaged: its contents do not fit its checksum.")
    return from_header(header, tensors, source)
