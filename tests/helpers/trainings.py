"""Small trainings."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import keystr, tree_leaves_with_path

from detrcli.data.examine import examine
from detrcli.data.make import make_shapes
from detrcli.data.source import open_data
from detrcli.evaluation.metrics import Evaluator
from detrcli.reporter import Reporter
from detrcli.training.interrupts import TERMINATED, Interrupts
from detrcli.training.loop import Training
from detrcli.training.progress import Outcome, TrainingListener, TrainingProgress
from detrcli.training.run_folder import MACHINE_COLUMNS, Row, RunFolder
from detrcli.training.setup import Data, facts_of, initialize, prepare_data, resumed
from detrcli.training.state import load_state

CPU = torch.device("cpu")
SMALL = {
    "model": "detr-tiny", "size": 32, "queries": 6, "batch_size": 2, "epochs": 3, "lr": 1e-3, "workers": 0,
    "dropout": 0.1,
}  # fmt: skip


@dataclass
class Recorder(Reporter, TrainingListener):
    """Records the events of a training, and calls functions: `after` the n-th step, and at any event of a kind."""

    after: Mapping[int, Callable[[], object]] = field(default_factory=dict)
    at_step: Callable[[TrainingProgress], None] = lambda progress: None
    while_evaluating: Callable[[int], None] = lambda done: None
    steps: list[TrainingProgress] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def step(self, progress: TrainingProgress) -> None:
        self.steps.append(progress)
        self.after.get(len(self.steps), lambda: None)()
        self.at_step(progress)

    @contextmanager
    def progress(self, what: str, total: int | None = None, unit: str = "items") -> Iterator[Callable[[int], None]]:
        done = 0

        def advance(steps: int) -> None:
            nonlocal done
            done += steps
            self.while_evaluating(done)

        yield advance

    def epoch(self, row: Row, *, best: bool) -> None:
        self.rows.append(row)

    def show(self, text: str) -> None:
        self.notes.append(text)


def shapes_fixture(images: int = 12, objects: int = 2) -> Any:
    """A module's data: a few images of circles and squares."""
    return shapes_folder(data_of, images=images, size=32, classes=("circle", "square"), objects=objects)


def shapes_folder(read: Callable[[Path], Any] = Path, **options: Any) -> Any:
    """A module's folder of shapes, made with these options, or what `read` returns for it."""

    @pytest.fixture(scope="module")
    def data(tmp_path_factory: pytest.TempPathFactory) -> Any:
        folder = tmp_path_factory.mktemp("data") / "shapes"
        make_shapes(folder, **options)
        return read(folder)

    return data


def change_annotations(folder: Path, change: Callable[[dict[str, Any]], object], split: str = "*") -> None:
    """Change the annotations of all splits, or of one, in a folder of shapes."""
    for path in (folder / "annotations").glob(f"instances_{split}.json"):
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))


def without_first_objects(document: dict[str, Any]) -> None:
    """Remove the objects of images 1 to 3."""
    document["annotations"] = [entry for entry in document["annotations"] if entry["image_id"] > 3]


def data_of(folder: Path) -> Data:
    return prepare_data(str(folder), examine(open_data(folder)))


def new(
    data: Data, run: Path | None, recorder: Recorder | None = None, evaluator: Evaluator | None = None, **chosen: Any
) -> Training:
    initial = initialize(SMALL | chosen, data.classes, facts_of(data.train))
    if run is not None:
        run.mkdir(parents=True, exist_ok=True)
    recorder, folder = recorder or Recorder(), None if run is None else RunFolder(run)
    return Training(initial, data, CPU, folder, evaluator=evaluator, listener=recorder, reporter=recorder)


def resume(
    data: Data, run: Path, recorder: Recorder | None = None, evaluator: Evaluator | None = None, **changed: Any
) -> Training:
    state, _ = load_state(run)
    initial = resumed(state | {"settings": state["settings"] | changed})
    recorder, folder = recorder or Recorder(), RunFolder(run)
    training = Training(initial, data, CPU, folder, evaluator=evaluator, listener=recorder, reporter=recorder)
    training.data.check_same(state["fingerprint"], state["marks"])
    training.state.restore(state)
    return training


def finished(training: Training) -> Training:
    """Run a training to its end."""
    assert training.run(Interrupts()).stopped is None
    return training


def stopped(data: Data, run: Path, *, step: int | None = None, image: int | None = None, **chosen: Any) -> Outcome:
    """A training that is interrupted after a step, or after an image of the first evaluation."""
    interrupts = Interrupts()

    def stop(due: bool) -> None:
        if due:
            interrupts.code = TERMINATED

    recorder = Recorder(
        at_step=lambda progress: stop((progress.epoch - 1) * progress.steps + progress.done == step),
        while_evaluating=lambda done: stop(done == image),
    )
    return new(data, run, recorder, **chosen).run(interrupts)


def comparable(training: Training) -> dict[str, Any]:
    """Everything that must be bit-identical, flat, with tensors as bytes; without time and memory."""
    state = training.state.document([training.state.sums])
    rows = [{key: value for key, value in row.items() if key not in MACHINE_COLUMNS} for row in state["rows"]]
    flat: dict[str, Any] = {"rows": rows, "step": state["step"], "monitor": state["monitor"]}
    for path, leaf in tree_leaves_with_path({part: state[part] for part in ("model", "ema", "optimizer")}):
        flat[keystr(path)] = leaf.numpy().tobytes() if isinstance(leaf, torch.Tensor) else leaf
    return flat


def assert_resumes_to_the_same_bits(data: Path, folder: Path, step: int = 3, **chosen: Any) -> None:
    """A model that is stopped after some steps and resumed ends as a model that never stopped."""
    facts = {"weights": "none", "batch_size": 4, "epochs": 2, "dropout": None, "ema": 0.9, **chosen}
    read = data_of(data)
    whole = finished(new(read, folder / "whole", **facts))
    stopped(read, folder / "parts", step=step, **facts)
    assert comparable(finished(resume(read, folder / "parts"))) == comparable(whole)


def rows_of(run: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv, without columns that depend on the machine."""
    with (run / "metrics.csv").open() as file:
        return [
            {key: value for key, value in row.items() if key not in MACHINE_COLUMNS} for row in csv.DictReader(file)
        ]
