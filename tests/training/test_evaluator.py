"""A training is judged by whatever is asked of it: one value of another name than AP."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from trainings import CPU, SMALL, RecordingReport, data_of

from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.make import make_shapes
from detrcli.evaluation.metrics import METRICS
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import Truth
from detrcli.training.interrupts import Interrupts
from detrcli.training.loop import Training
from detrcli.training.run_folder import RunFolder
from detrcli.training.setup import Data, facts_of, initialize, resumed
from detrcli.training.state import load_state

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass
class Found:
    """Says what it is told to, whatever was found."""

    values: Sequence[float]
    names: Sequence[str] = ("found",)
    best: str = "found"
    seen: list[tuple[Truth, Results]] = field(default_factory=list)

    def evaluate(self, truth: Truth, results: Results) -> Mapping[str, float]:
        self.seen.append((truth, results))
        return {"found": self.values[len(self.seen) - 1]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, images=6, size=32, classes=("circle", "square"), objects=2)
    return data_of(folder)


def new(data: Data, run: Path, evaluator: Found, report: RecordingReport | None = None, **chosen: object) -> Training:
    initial = initialize(SMALL | chosen, data.classes, facts_of(data.train))
    run.mkdir()
    return Training(initial, data, CPU, RunFolder(run), report or RecordingReport(), evaluator=evaluator)


def column(run: Path) -> list[str]:
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert not set(METRICS) & set(rows[0])
    return [row["found"] for row in rows]


def test_it_fills_its_column_and_decides_which_weights_are_best(data: Data, tmp_path: Path) -> None:
    judge, report, lasts = Found([2.0, 7.0, 5.0]), RecordingReport(), []
    run = tmp_path / "run"
    report.epoch = lambda row, *, best: lasts.append((best, (run / "last.safetensors").read_bytes()))
    outcome = new(data, run, judge, report).go(Interrupts())
    assert column(run) == ["2.0", "7.0", "5.0"]
    assert outcome.best is not None
    assert (outcome.best["epoch"], outcome.best["found"]) == (2, 7.0)
    assert [best for best, _ in lasts] == [True, True, False]
    best = (run / "best.safetensors").read_bytes()
    assert [last == best for _, last in lasts] == [False, True, False]
    assert load_checkpoint(str(run)).tensors.keys() == load_checkpoint(str(run / "last.safetensors")).tensors.keys()
    for truth, results in judge.seen:  # it is asked about the validation split and what was found in it
        np.testing.assert_array_equal(truth.image_ids, data.truth.image_ids)
        assert len(results) == len(truth.images) * SMALL["queries"]


@pytest.mark.slow
def test_patience_goes_by_it(data: Data, tmp_path: Path) -> None:
    judge = Found([2.0, 7.0, 5.0, 6.0, 9.0])
    assert new(data, tmp_path / "run", judge, epochs=5, patience=2).go(Interrupts()).epochs == 4


@pytest.mark.slow
def test_below_zero_there_was_nothing_to_measure(data: Data, tmp_path: Path) -> None:
    outcome = new(data, tmp_path / "run", Found([-1.0, -1.0]), epochs=2).go(Interrupts())
    assert outcome.best is None
    weights = [(tmp_path / "run" / f"{name}.safetensors").read_bytes() for name in ("best", "last")]
    assert weights[0] == weights[1]


def test_a_resumed_training_is_judged_by_it_too(data: Data, tmp_path: Path) -> None:
    run = tmp_path / "run"
    new(data, run, Found([7.0]), epochs=1).go(Interrupts())
    best = (run / "best.safetensors").read_bytes()
    state, _ = load_state(run)
    initial = resumed(state | {"settings": state["settings"] | {"epochs": 2}}, data)
    training = Training(initial, data, CPU, RunFolder(run), RecordingReport(), evaluator=Found([5.0]))
    training.restore(state)
    outcome = training.go(Interrupts())
    assert column(run) == ["7.0", "5.0"]
    assert outcome.best is not None
    assert outcome.best["epoch"] == 1
    assert (run / "best.safetensors").read_bytes() == best != (run / "last.safetensors").read_bytes()
