"""The report at the end of a training, and the commands that use a run's data."""

import json
from pathlib import Path

import pytest
from here import Detr

import detrcli
from detrcli.api import training
from detrcli.api.training import TrainingResult
from detrcli.data.make import make_shapes
from detrcli.errors import DataError
from detrcli.training.run_folder import SOURCE, data_of, is_run


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


def test_eval_writes_the_report(run: Path, detr: Detr, tmp_path: Path) -> None:
    shown = detr("eval", run.parent / "data", "--weights", "shapes", "--report", tmp_path / "page", "--json").ok()
    written = json.loads((tmp_path / "page" / "report.json").read_text())
    assert written["metrics"]["AP"] == pytest.approx(shown.json["metrics"]["AP"], abs=1e-6)
