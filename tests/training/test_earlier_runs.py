"""A run that version 0.1 was stopped in goes on, and ends as that version ended it."""

import csv
import shutil
from pathlib import Path

import pytest
import torch

from detrcli.api import train
from detrcli.data.make import make_shapes
from detrcli.training.run_folder import MACHINE
from detrcli.weights.load import load_weights

KEPT = Path(__file__).parents[1] / "golden" / "c3dd491"


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("one_thread")
def test_it_resumes_to_the_same_end(tmp_path: Path) -> None:
    make_shapes(tmp_path / "small", images=12, size=32, classes=("circle", "square", "triangle"), objects=2)
    shutil.copytree(KEPT / "stopped", tmp_path / "run")
    done = train(tmp_path / "small", resume=tmp_path / "run")
    assert done.stopped is None
    now, then = (load_weights(str(place / "last.safetensors")) for place in (done.run, KEPT / "finished"))
    # Seven steps of the same arithmetic in another order.
    for name, value in then.tensors.items():
        torch.testing.assert_close(now.tensors[name], value, rtol=0, atol=1e-4)
    assert now.loss == then.loss  # the one from its state, the other from the config.toml beside it
    ours, theirs = rows_of(done.run), rows_of(KEPT / "finished")
    assert list(ours[0]) == list(theirs[0])
    for a, b in zip(ours, theirs, strict=True):
        for name in a.keys() - MACHINE:
            assert (a[name] == "") == (b[name] == "")
            assert float(a[name] or 0) == pytest.approx(float(b[name] or 0), rel=1e-4, abs=1e-6), name


@pytest.mark.usefixtures("one_thread")
def test_a_training_leaves_random_numbers_as_they_were(tmp_path: Path) -> None:
    make_shapes(tmp_path / "small", images=4, size=32, classes=("circle",), objects=2)
    before = torch.random.get_rng_state()
    train(
        tmp_path / "small", model="detr-tiny", weights="none", size=32, epochs=1, out=tmp_path / "run",
        settings={"workers": 0},
    )  # fmt: skip
    assert torch.equal(torch.random.get_rng_state(), before)
