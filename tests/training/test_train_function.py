"""A training from Python: mistakes are refused before anything is done; the program around it stays as it was."""

import json
import signal
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from trainings import RecordingReport

from detrcli.api import train
from detrcli.api.training import Hooks
from detrcli.data.make import make_shapes
from detrcli.errors import DataError, UsageError
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import Truth
from detrcli.training.interrupts import Interrupts

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"model": "detr-tiny", "weights": "none", "size": 32, "epochs": 1, "batch_size": 2}
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, images=4, size=32, classes=("circle",), objects=2)
    return folder


class Broken(Exception):  # noqa: N818  # no error of ours
    """What nothing in a training catches."""


@pytest.mark.parametrize("breaks", [False, True])
def test_random_numbers_and_signals_are_afterwards_as_before(breaks: bool, data: Path, tmp_path: Path) -> None:
    """Also where it fails; in between both are the training's."""
    seen: list[tuple[Any, torch.Tensor]] = []

    def look(_: object) -> None:
        seen.append((signal.getsignal(signal.SIGTERM), torch.random.get_rng_state()))
        if breaks:
            raise Broken

    report = RecordingReport(at_step=look)
    random, handlers = torch.random.get_rng_state(), [signal.getsignal(one) for one in SIGNALS]
    with pytest.raises(Broken) if breaks else nullcontext():
        train(
            data, **SMALL, out=tmp_path / "run", device="cpu", settings={"workers": 0},
            hooks=Hooks(report=lambda device: nullcontext(report)),
        )  # fmt: skip
    assert len(seen) == (1 if breaks else 2)
    for handler, state in seen:
        assert isinstance(handler.__self__, Interrupts)
        assert not torch.equal(state, random)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert [signal.getsignal(one) for one in SIGNALS] == handlers


@pytest.mark.parametrize(
    ("options", "settings", "said"),
    [
        ({}, {"workers": 100_000}, "workers = 100000: must be between 0 and 256."),
        ({}, ["workers=100000"], "workers = 100000: must be between 0 and 256."),
        ({"epochs": 0}, {}, "epochs = 0: must be at least 1."),
        ({"lr": float("nan")}, {}, "lr = nan: must be a number."),
        ({}, ["lr=nan"], "lr = nan: must be a number."),
        ({}, {"loss": {"class": float("inf")}}, "loss.class = inf: must be a number."),
    ],
)
def test_what_is_out_of_bounds_is_refused_at_once(
    options: Mapping[str, Any], settings: Mapping[str, Any] | Sequence[str], said: str, tmp_path: Path
) -> None:
    """Before anybody asks whether there is such data."""
    with pytest.raises(UsageError) as error:
        train(tmp_path / "nowhere", **options, out=tmp_path / "run", settings=settings)
    assert str(error.value) == said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("pair", "name"), [("loss.centre=1", "loss.centre"), ("cost.mask=1", "cost.mask")])
def test_a_term_that_the_model_does_not_have_is_named(pair: str, name: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        train(data, **SMALL, out=tmp_path / "run", settings=[pair])
    assert str(error.value) == f"{name}: this model has no such term; it has class, l1, giou."
    assert not list(tmp_path.iterdir())


class Counted:
    """Judges an epoch by how much is found."""

    names: Sequence[str] = ("detections",)
    best = "detections"

    def evaluate(self, truth: Truth, results: Results) -> Mapping[str, float]:
        return {"detections": float(len(results.scores))}


def test_another_evaluator_judges_the_epochs(data: Path, tmp_path: Path) -> None:
    settings = {"workers": 0}
    result = train(data, **SMALL, out=tmp_path / "run", device="cpu", settings=settings, evaluator=Counted())
    assert [row["detections"] for row in result.rows] == [25.0]  # each of its queries, in the one picture of val
    assert "AP" not in result.rows[0]


def test_what_is_wrong_with_data_stands_in_the_error(data: Path, tmp_path: Path) -> None:
    """Unless somebody is told line by line."""
    broken = tmp_path / "broken"
    (broken / "train").mkdir(parents=True)
    labels = json.loads((data / "annotations" / "instances_train.json").read_text(encoding="utf-8"))
    (broken / "annotations").mkdir()
    (broken / "annotations" / "instances_train.json").write_text(json.dumps(labels), encoding="utf-8")
    with pytest.raises(DataError) as error:
        train(broken, **SMALL, out=tmp_path / "run", device="cpu")
    first, *rest = str(error.value).splitlines()
    assert "errors in the data" in first
    assert labels["images"][0]["file_name"] in "".join(rest)

    heard: list[str] = []
    with pytest.raises(DataError) as error:
        train(broken, **SMALL, out=tmp_path / "run", device="cpu", hooks=Hooks(note=heard.append))
    assert str(error.value).splitlines() == [first]
    assert [line for line in heard if line.startswith("error")] == rest


def test_a_setting_that_has_a_parameter_too_may_stand_among_the_others(data: Path, tmp_path: Path) -> None:
    plan = train(data, model="detr-tiny", weights="none", out=tmp_path / "run", device="cpu", dry_run=True,
                 settings={"epochs": 7, "lr": 0.25, "batch_size": 2, "workers": 0})  # fmt: skip
    assert (plan.settings.epochs, plan.settings.lr, plan.settings.batch_size) == (7, 0.25, 2)
