"""A small model of each family, as a folder that transformers wrote, and a little data."""

from pathlib import Path

import families
import mask_families
import phrases
import pytest
from trainings import shapes_folder

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.load import load_checkpoint

data = shapes_folder(images=12, size=64, objects=3)


@pytest.fixture(params=families.NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(name: str) -> Path:
    if name.startswith("mask"):
        return mask_families.folder_of(name)
    return (phrases if phrases.are_taken_by(name) else families).folder_of(name)


@pytest.fixture
def checkpoint(name: str, folder: Path) -> Checkpoint:
    return load_checkpoint(str(folder), phrases=phrases.PHRASES if phrases.are_taken_by(name) else None)


@pytest.fixture
def image(data: Path) -> Path:
    return data / "val" / "000000.png"
