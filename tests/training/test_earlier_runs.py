"""A run that version 0.1 was stopped in goes on, and ends as that version ended it."""

import csv
import shutil
from pathlib import Path

import pytest
import torch
from golden_rules import GOLDEN
from trainings import data_of

from detrcli.api import train
from detrcli.data.make import make_shapes
from detrcli.errors import DataError
from detrcli.training.matching_history import read
from detrcli.training.run_folder import MACHINE, VALIDATION_LOSS
from detrcli.training.state import load_state
from detrcli.weights.load import load_weights

pytestmark = pytest.mark.usefixtures("one_thread")

KEPT = GOLDEN / "c3dd491"


def made(folder: Path, images: int = 12) -> Path:
    """The data that the run was trained on, which follows from its numbers."""
    make_shapes(folder, images=images, size=32, classes=("circle", "square", "triangle"), objects=2)
    return folder


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("pixels_by_pillow", "dropout_by_torch")
def test_it_resumes_to_the_same_end(tmp_path: Path) -> None:
    shutil.copytree(KEPT / "stopped", tmp_path / "run")
    done = train(made(tmp_path / "small"), resume=tmp_path / "run")
    assert done.stopped is None
    # Seven steps of the same arithmetic in another order.
    for file in ("last", "best"):
        now, then = (
            load_weights(str(place / f"{file}.safetensors")) for place in (done.run, KEPT / "finished")
        )
        assert now.tensors.keys() == then.tensors.keys()
        for name, value in then.tensors.items():
            torch.testing.assert_close(now.tensors[name], value, rtol=0, atol=1e-4)
        assert now.loss == then.loss  # the one from its state, the other from the config.toml beside it
    ours, theirs = rows_of(done.run), rows_of(KEPT / "finished")
    assert [name for name in ours[0] if name != VALIDATION_LOSS] == list(theirs[0])
    for a, b in zip(ours, theirs, strict=True):
        for name in b.keys() - MACHINE:
            assert (a[name] == "") == (b[name] == "")
            assert float(a[name] or 0) == pytest.approx(float(b[name] or 0), rel=1e-4, abs=1e-6), name
    for name, array in vars(read(KEPT / "finished")).items():
        assert (getattr(read(done.run), name) == array).all(), name


def test_its_data_are_known_by_the_same_fingerprint(tmp_path: Path) -> None:
    """The figure that version 0.1 wrote; other pictures are refused."""
    state, notes = load_state(KEPT / "stopped")
    assert notes == []
    assert data_of(made(tmp_path / "small")).fingerprint == state["fingerprint"] == "3fae40ca681c6f58"
    shutil.copytree(KEPT / "stopped", tmp_path / "run")
    with pytest.raises(DataError, match="not those that this run was begun with"):
        train(made(tmp_path / "fewer", images=10), resume=tmp_path / "run")
