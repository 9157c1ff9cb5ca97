"""What all tests share."""

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

# The command line is tested as strangers' terminals see it, not as this one's is set up.
for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "DETR_CACHE"):
    os.environ.pop(name, None)

# As many threads as cores, those of tests that run side by side and of the processes that they start together.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
else:
    torch.set_num_threads(2)

# The default run takes a tenth of each count; `-m slow` takes all of it. Seeded, so that a failure stays.
settings.register_profile(
    "detr", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("detr")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", metavar="K/N", help="Of the tests, those of part K of N, counted from 0.")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is in other parts: by its name, so that a test stays in its part whatever is added."""
    if asked := config.getoption("--part"):
        part, parts = map(int, asked.split("/"))
        other = [item for item in items if crc32(item.nodeid.encode()) % parts != part]
        config.hook.pytest_deselected(items=other)
        items[:] = [item for item in items if item not in set(other)]


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small trainings are quickest on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees, or leaves something in, the user's cache."""
    monkeypatch.setenv("DETR_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def pixels_by_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training resizes whole pictures by Pillow, as once; what it does now differs by a gray level here and there."""

    def part(image: Image.Image, whole: tuple[int, int], top: int, left: int, height: int, width: int) -> Image.Image:
        resized = image.resize(whole, Image.Resampling.BILINEAR)
        return resized.crop((left, top, left + width, top + height))

    monkeypatch.setattr(augmentation, "_part_resized", part)
    monkeypatch.setattr(dataset, "prepare", lambda image, preprocessing, *, exact: prepare(image, preprocessing))


@pytest.fixture
def dropout_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is dropped is drawn by torch, as once, and as where it compiles."""
    monkeypatch.setattr(attention, "use_fast_dropout", lambda *_: False)


@pytest.fixture
def detr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Detr:
    """The command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def run(*args: object) -> Shown:
        monkeypatch.setattr(sys, "argv", ["detr", *map(str, args)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return Shown(left.value.code or 0, out, err)

    return run
