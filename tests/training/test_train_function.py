"""`detrcli.train`: invalid arguments, the state of the program, and the report at the end."""

import json
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from here import Detr
from trainings import Recorder, shapes_folder

import detrcli
from detrcli import train
from detrcli.api import training
from detrcli.api.training import TrainingResult
from detrcli.data.make import make_shapes
from detrcli.errors import DataError, UsageError
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import Truth
from detrcli.training.interrupts import Interrupts
from detrcli.training.run_folder import SOURCE, data_of
from detrcli.training.run_status import is_run

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL: Any = {
    "model": "detr-tiny", "weights": "none", "size": 32, "epochs": 1, "batch_size": 2, "device": "cpu"
}  # fmt: skip
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


data = shapes_folder(images=4, size=32, classes=("circle",), objects=2)


@pytest.mark.parametrize("breaks", [False, True])
def test_random_state_and_signal_handlers_are_restored(breaks: bool, data: Path, tmp_path: Path) -> None:
    during: list[tuple[Any, torch.Tensor]] = []

    def look(_: object) -> None:
        during.append((signal.getsignal(signal.SIGTERM), torch.random.get_rng_state()))
        if breaks:
            raise ZeroDivisionError

    random, handlers = torch.random.get_rng_state(), [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ZeroDivisionError) if breaks else nullcontext():
        train(data, **SMALL, out=tmp_path / "run", settings={"workers": 0}, listener=Recorder(at_step=look))
    assert len(during) == (1 if breaks else 2)
    for handler, state in during:
        assert isinstance(handler.__self__, Interrupts)
        assert not torch.equal(state, random)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert [signal.getsignal(number) for number in SIGNALS] == handlers


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        ({}, {"workers": 100_000}, "workers = 100000"),
        ({"epochs": 0}, {}, "epochs = 0"),
        ({}, ["lr=nan"], "lr = nan"),
        ({}, {"loss": {"class": float("inf")}}, "loss.class = inf"),
    ],
)
def test_invalid_settings_are_refused_before_the_data_is_read(
    options: Mapping[str, Any], settings: Mapping[str, Any] | Sequence[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        train(tmp_path / "nowhere", **options, out=tmp_path / "run", settings=settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("pair", "name"), [("loss.center=1", "loss.center"), ("cost.mask=1", "cost.mask")])
def test_an_unknown_term_is_named(pair: str, name: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"^{name}: .*class, l1, giou"):
        train(data, **SMALL, out=tmp_path / "run", settings=[pair])
    assert not list(tmp_path.iterdir())


def test_another_evaluator(data: Path, tmp_path: Path) -> None:
    def evaluate(truth: Truth, results: Results) -> dict[str, float]:
        return {"detections": float(len(results))}

    evaluator = SimpleNamespace(names=("detections",), best="detections", evaluate=evaluate)
    result = train(data, **SMALL, out=tmp_path / "run", settings={"workers": 0}, evaluator=evaluator)
    assert [row["detections"] for row in result.rows] == [25.0]  # a detection per query, in a single image
    assert "AP" not in result.rows[0]


def test_errors_of_the_data_are_in_the_exception_or_reported(data: Path, tmp_path: Path) -> None:
    """The images of a copy of the annotations are missing."""
    shutil.copytree(data / "annotations", tmp_path / "broken" / "annotations")
    (tmp_path / "broken" / "train").mkdir()
    with pytest.raises(DataError) as error:
        train(tmp_path / "broken", **SMALL, out=tmp_path / "run")
    first, *rest = str(error.value).splitlines()
    assert min((data / "train").iterdir()).name in "".join(rest)

    recorder = Recorder()
    with pytest.raises(DataError) as error:
        train(tmp_path / "broken", **SMALL, out=tmp_path / "run", reporter=recorder)
    assert str(error.value).splitlines() == [first]
    assert [line for line in recorder.notes if line.startswith("error")] == rest


def test_settings_may_contain_those_with_a_parameter_of_their_own(data: Path, tmp_path: Path) -> None:
    settings = {"epochs": 7, "lr": 0.25, "batch_size": 3, "workers": 0}
    options = {"model": "detr-tiny", "weights": "none", "device": "cpu"}
    plan = train(data, **options, out=tmp_path / "run", dry_run=True, settings=settings)
    assert (plan.document["parameters"][0]["lr"], plan.document["pictures_per_step"]) == (0.25, 3)
    assert "7 epochs" in str(plan.content[-1])


def trained(root: Path, run: Path) -> TrainingResult:
    settings = {"epochs": 1, "batch_size": 4, "workers": 0}
    result = detrcli.train(root / "data", model="dino-tiny", weights="none", out=run, settings=settings)
    assert isinstance(result, TrainingResult)
    return result


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An epoch on a few shapes, with enough time for the report."""
    root = tmp_path_factory.mktemp("report-of-run")
    make_shapes(root / "data", images=20, size=64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "MIN_REPORT_SECONDS", 0.0)
        patch.setattr(training, "REPORT_SHARE", 100.0)
        result = trained(root, root / "run")
    assert result.report == root / "run" / "report" / "index.html"
    assert result.findings
    assert any("too short" in finding.finding for finding in result.findings)
    return root / "run"


def test_detr_report_uses_the_data_of_a_run(run: Path, tmp_path: Path, detr: Detr) -> None:
    document = json.loads((run / "report" / "report.json").read_text())
    assert (document["schema"], document["images"]) == ("detr.report/1", 4)
    assert "too short" in (run / "report" / "index.html").read_text()
    assert is_run(run)
    assert not is_run(tmp_path)
    assert data_of(run)["data"] == str(run.parent / "data")
    shown = detr("report", run, "--out", tmp_path / "page", "--json").ok()
    assert shown.json["metrics"] == document["metrics"]
    source = (run / SOURCE).read_text()
    assert data_of(run) == json.loads(source)
    (run / SOURCE).write_text("{}")
    with pytest.raises(DataError, match=SOURCE):
        data_of(run)
    (run / SOURCE).write_text(source)


def test_a_short_training_has_no_report(run: Path, tmp_path: Path) -> None:
    result = trained(run.parent, tmp_path / "run")
    assert result.report is result.findings is None
    assert not (tmp_path / "run" / "report").exists()


def test_several_weights_are_compared(run: Path, detr: Detr, tmp_path: Path) -> None:
    call = ("eval", run.parent / "data", "--weights", "shapes", "--weights", run)
    shown = detr(*call, "--json").ok()
    assert shown.json["schema"] == "detr.eval-compare/1"
    first, second = (model["metrics"]["AP"] for model in shown.json["models"])
    gain = shown.json["differences"][0]["metrics"]["AP"]
    assert gain["difference"] == pytest.approx(second - first, abs=1e-6)
    assert gain["high"] < 0  # one epoch is worse
    assert f"{run} is worse" in detr(*call).out
    for option in ("--save", "--thresholds", "--report"):
        detr(*call, option, tmp_path / "x").fails(2, option)
