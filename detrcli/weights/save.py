"""Weights on disk under a name, as one file or as a folder: whatever their model is kept as."""

from pathlib import Path

from detrcli.weights.formats import folder, native
from detrcli.weights.weights import Weights


def save(weights: Weights, place: Path, name: str) -> Path:
    """Write them below a folder: whole or not at all."""
    if weights.variant.folder is None:
        path = place / f"{name}{native.ENDING}"
        native.save(weights, path)
    else:
        path = place / name
        folder.save(weights, path)
    return path


def find(place: Path, name: str) -> Path | None:
    """What was saved so."""
    file = place / f"{name}{native.ENDING}"
    if file.is_file():
        return file
    return place / name if folder.is_one(place / name) else None
