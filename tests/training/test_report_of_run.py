"""A training ends in a report where there is time for it, and a run says which data it was trained on."""

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


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One epoch on a few shapes, with as much time as the report wants."""
    root = tmp_path_factory.mktemp("report-of-run")
    make_shapes(root / "data", images=20, size=64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "LEAST_REPORT", 0.0)
        patch.setattr(training, "REPORT_SHARE", 100.0)
        ended = detrcli.train(
            root / "data", model="dino-tiny", weights="none", out=root / "run",
            settings={"epochs": 1, "batch_size": 4, "workers": 0},
        )  # fmt: skip
    assert isinstance(ended, TrainingResult)
    assert ended.report == root / "run" / "report" / "index.html"
    assert ended.findings
    assert any("too short" in one.finding for one in ended.findings)
    return root / "run"


def test_its_page(run: Path) -> None:
    document = json.loads((run / "report" / "report.json").read_text())
    assert document["schema"] == "detr.report/1"
    assert document["images"] == 4
    page = (run / "report" / "index.html").read_text()
    assert page.index("What is probably wrong") < page.index("too short") < page.index("Objects and detections")


def test_it_is_found_again(run: Path, tmp_path: Path, detr: Detr) -> None:
    assert is_run(run)
    assert not is_run(tmp_path)
    assert data_of(run)["data"] == str(run.parent / "data")
    shown = detr("report", run, "--out", tmp_path / "page", "--json")
    assert shown.code == 0, shown.err
    kept = json.loads((run / "report" / "report.json").read_text())
    assert json.loads(shown.out)["metrics"] == kept["metrics"]
    kept_source = (run / SOURCE).read_text()
    assert data_of(run) == json.loads(kept_source)
    (run / SOURCE).write_text("{}")
    with pytest.raises(DataError, match="does not say which data"):
        data_of(run)
    (run / SOURCE).write_text(kept_source)


def test_a_short_training_has_none(run: Path, tmp_path: Path) -> None:
    ended = detrcli.train(
        run.parent / "data", model="dino-tiny", weights="none", out=tmp_path / "run",
        settings={"epochs": 1, "batch_size": 4, "workers": 0},
    )  # fmt: skip
    assert isinstance(ended, TrainingResult)
    assert ended.report is ended.findings is None
    assert not (tmp_path / "run" / "report").exists()


def test_several_weights_are_compared(run: Path, detr: Detr, tmp_path: Path) -> None:
    data = run.parent / "data"
    shown = detr("eval", data, "--weights", "shapes", "--weights", run, "--json")
    assert shown.code == 0, shown.err
    document = json.loads(shown.out)
    assert document["schema"] == "detr.eval-compare/1"
    first, second = (one["metrics"]["AP"] for one in document["models"])
    gain = document["differences"][0]["metrics"]["AP"]
    assert gain["difference"] == pytest.approx(second - first, abs=1e-6)
    assert gain["high"] < 0  # one epoch is worse
    told = detr("eval", data, "--weights", "shapes", "--weights", run)
    assert f"{run} is worse" in told.out
    for option in ("--save", "--thresholds", "--report"):
        refused = detr("eval", data, "--weights", "shapes", "--weights", run, option, tmp_path / "x")
        assert refused.code == 2
        assert "--save" in refused.err


def test_an_evaluation_with_its_page(run: Path, detr: Detr, tmp_path: Path) -> None:
    shown = detr("eval", run.parent / "data", "--weights", "shapes", "--report", tmp_path / "page", "--json")
    assert shown.code == 0, shown.err
    written = json.loads((tmp_path / "page" / "report.json").read_text())
    assert written["metrics"]["AP"] == pytest.approx(json.loads(shown.out)["metrics"]["AP"], abs=1e-6)
