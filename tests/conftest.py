"""Options and fixtures of all tests."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest
import torch
from here import Detr, Shown
from hypothesis import HealthCheck, settings
from PIL import Image

from detrcli.cli.app import main
from detrcli.data import augmentation, dataset
from detrcli.data.preprocessing import prepare
from detrcli.model import attention

# The command line is tested without the settings of this terminal.
for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "DETR_CACHE"):
    os.environ.pop(name, None)

# Tests that run in parallel use a thread each, and so do the processes that they start.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
else:
    torch.set_num_threads(2)

# The default run uses a tenth of each count, `-m slow` all of it. The cases are seeded, so that failures repeat.
settings.register_profile(
    "detr", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("detr")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", metavar="K/N", help="Run part K of N of the tests, counted from 0.")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect other parts, by a hash of names, so that a test stays in its part when others are added."""
    if value := config.getoption("--part"):
        part, parts = map(int, value.split("/"))
        other = [item for item in items if crc32(item.nodeid.encode()) % parts != part]
        config.hook.pytest_deselected(items=other)
        items[:] = [item for item in items if item not in set(other)]


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Use a single thread, with which small trainings are fastest."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a cache folder of the tests."""
    monkeypatch.setenv("DETR_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def pixels_by_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resize whole images by Pillow in training; torch's values may differ by a gray level."""

    def part(image: Image.Image, whole: tuple[int, int], top: int, left: int, height: int, width: int) -> Image.Image:
        resized = image.resize(whole, Image.Resampling.BILINEAR)
        return resized.crop((left, top, left + width, top + height))

    monkeypatch.setattr(augmentation, "_part_resized", part)
    monkeypatch.setattr(dataset, "prepare", lambda image, preprocessing, *, exact: prepare(image, preprocessing))


@pytest.fixture
def dropout_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use torch's dropout, as compiled models do."""
    monkeypatch.setattr(attention, "use_fast_dropout", lambda *_: False)


@pytest.fixture
def detr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Detr:
    """Return a function that runs a command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def run(*args: object) -> Shown:
        monkeypatch.setattr(sys, "argv", ["detr", *map(str, args)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return Shown(left.value.code or 0, out, err)

    return run
