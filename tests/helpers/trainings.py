"""Trainings small enough to be run dozens of times."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from detrcli.data.examine import examine
from detrcli.data.source import open_data
from detrcli.training.interrupts import TERMINATED, Interrupts
from detrcli.training.loop import Training
from detrcli.training.progress import Outcome, TrainingProgress
from detrcli.training.run_folder import MACHINE, Row, RunFolder
from detrcli.training.setup import Data, facts_of, initialize, prepare_data, resumed
from detrcli.training.state import load_state

CPU = torch.device("cpu")
SMALL = {
    "model": "detr-tiny",
    "size": 32,
    "queries": 6,
    "batch_size": 2,
    "epochs": 3,
    "lr": 1e-3,
    "workers": 0,
    "dropout": 0.1,
}


@dataclass
class RecordingReport:
    """What a training reports; `at_step` and `while_evaluating` may do something then."""

    at_step: Callable[[TrainingProgress], None] = lambda progress: None
    while_evaluating: Callable[[int], None] = lambda done: None
    steps: list[TrainingProgress] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def step(self, progress: TrainingProgress) -> None:
        self.steps.append(progress)
        self.at_step(progress)

    def evaluating(self, done: int, pictures: int) -> None:
        self.while_evaluating(done)

    def epoch(self, row: Row, *, best: bool) -> None:
        self.rows.append(row)

    def note(self, text: str) -> None:
        self.notes.append(text)


def data_of(folder: Path) -> Data:
    return prepare_data(str(folder), examine(open_data(folder)))


def new(data: Data, run: Path | None, report: RecordingReport | None = None, **chosen: Any) -> Training:
    initial = initialize(SMALL | chosen, data.classes, facts_of(data.train))
    if run is not None:
        run.mkdir(parents=True, exist_ok=True)
    return Training(initial, data, CPU, RunFolder(run) if run else None, report or RecordingReport())


def resume(data: Data, run: Path, report: RecordingReport | None = None, **anew: Any) -> Training:
    state, _ = load_state(run)
    initial = resumed(state | {"settings": state["settings"] | anew}, data)
    training = Training(initial, data, CPU, RunFolder(run), report or RecordingReport())
    training.restore(state)
    return training


def stopped(data: Data, run: Path, *, step: int | None = None, picture: int | None = None, **chosen: Any) -> Outcome:
    """A training that is told to stop after a step, or while the first evaluation looks at a picture."""
    interrupts = Interrupts()

    def stop(here: int, there: int | None) -> None:
        if here == there:
            interrupts.code = TERMINATED

    report = RecordingReport(
        at_step=lambda progress: stop((progress.epoch - 1) * progress.steps + progress.done, step),
        while_evaluating=lambda done: stop(done, picture),
    )
    return new(data, run, report, **chosen).go(interrupts)


def comparable(training: Training) -> dict[str, Any]:
    """All that must be equal to the bit, flat: tensors as bytes; time and memory left out."""
    state = training.state([training.sums])
    rows = [{key: value for key, value in row.items() if key not in MACHINE} for row in state["rows"]]
    flat: dict[str, Any] = {"rows": rows, "step": state["step"], "monitor": state["monitor"]}
    for part in ("model", "ema", "optimiser"):
        flat |= _flat(part, state[part])
    return flat


def _flat(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, torch.Tensor):
        return {name: value.numpy().tobytes()}
    if isinstance(value, dict):
        return {k: v for key, one in value.items() for k, v in _flat(f"{name}.{key}", one).items()}
    if isinstance(value, list):
        return {k: v for i, one in enumerate(value) for k, v in _flat(f"{name}.{i}", one).items()}
    return {name: value}


def assert_resumes_to_the_same_bits(data: Path, folder: Path, **chosen: Any) -> None:
    """A model that is stopped after three steps and goes on ends as one that never stopped."""
    facts = {"weights": "none", "batch_size": 4, "epochs": 2, "dropout": None, "ema": 0.9, **chosen}
    seen = data_of(data)
    whole = new(seen, folder / "whole", **facts)
    whole.go(Interrupts())
    stopped(seen, folder / "parts", step=3, **facts)
    parts = resume(seen, folder / "parts")
    parts.go(Interrupts())
    assert comparable(parts) == comparable(whole)
