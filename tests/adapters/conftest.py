"""A small model of each family, as a folder that transformers wrote, and a little data."""

from pathlib import Path

import pytest
from families import NAMES, folder_of

from detrcli.data.make import make_shapes


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(name: str) -> Path:
    return folder_of(name)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, images=12, size=64, objects=3)
    return folder
