"""Weights on disk under a name, as one file or as a folder: whatever their model is kept as."""

from pathlib import Path

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.formats import folder, native


def save(checkpoint: Checkpoint, place: Path, name: str) -> Path:
    """Write them below a folder: whole or not at all."""
    if checkpoint.architecture.folder is None:
        path = place / f"{name}{native.ENDING}"
        native.save(checkpoint, path)
    else:
        path = place / name
        folder.save(checkpoint, path)
    return path


def find(place: Path, name: str) -> Path | None:
    """What was saved so."""
    file = place / f"{name}{native.ENDING}"
    if file.is_file():
        return file
    return place / name if folder.is_one(place / name) else None
