"""`detr doctor` names planted faults first, in data and in small trainings, and finds nothing in healthy ones."""

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from here import Detr
from PIL import Image, ImageEnhance

import detrcli
from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.examine import examine
from detrcli.data.make import make_shapes
from detrcli.data.source import open_data
from detrcli.diagnosis.failure_rules import failure_findings
from detrcli.diagnosis.finding import Finding
from detrcli.diagnosis.run_rules import RunFacts, run_findings
from detrcli.inspection.failures import Failures
from detrcli.training.matching_history import read
from detrcli.training.run_folder import read_rows
from detrcli.training.run_status import CONFIG
from detrcli.training.settings import given_settings, make_settings
from detrcli.training.setup import prepare_data

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = 96
Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doctor") / "shapes"
    make_shapes(folder, images=80, size=SIZE, objects=4)
    return folder


def changed(shapes: Path, folder: Path, change: Change, *splits: str) -> Path:
    """The same images with other annotations."""
    (folder / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (folder / split).symlink_to(shapes / split)
        document = json.loads((shapes / "annotations" / f"instances_{split}.json").read_text())
        if split in (splits or ("train", "val")):
            change(document)
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return folder


def annotations(change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Change:
    return lambda document: document.update(annotations=change(document["annotations"]))


def boxes(change: Callable[[float, float, float, float], list[float]]) -> Change:
    return annotations(lambda entries: [{**entry, "bbox": change(*entry["bbox"])} for entry in entries])


def shifted(document: dict[str, Any], every: int = 1) -> None:
    ids = [category["id"] for category in document["categories"]]
    for entry in document["annotations"][::every]:
        entry["category_id"] = ids[(ids.index(entry["category_id"]) + 1) % len(ids)]


centers = boxes(lambda x, y, w, h: [x + w / 2, y + h / 2, w, h])
doubled = boxes(lambda x, y, w, h: [2 * x, 2 * y, 2 * w, 2 * h])


@pytest.mark.parametrize(
    ("change", "splits", "finding"),
    [
        (boxes(lambda x, y, w, h: [x / SIZE, y / SIZE, w / SIZE, h / SIZE]), (), "relative to the image size"),
        (centers, (), "centers"),
        (boxes(lambda x, y, w, h: [x, y, x + w, y + h]), (), "corners"),
        (doubled, (), "images twice as large"),
        (boxes(lambda x, y, w, h: [x / 2, y / 2, w / 2, h / 2]), (), "smaller images"),
        (annotations(lambda entries: [{**e, "iscrowd": e["id"] % 2} for e in entries]), ("train",), "crowds"),
        (annotations(lambda entries: entries + [{**e, "id": -e["id"]} for e in entries[::4]]), ("train",), "twice"),
        (
            annotations(lambda entries: [e for e in entries if e["category_id"] != 4]),
            ("train",),
            "missing in train",
        ),
        (annotations(lambda entries: [e for e in entries if e["image_id"] % 5 == 0]), ("train",), "no annotation"),
    ],
)
def test_of_data(change: Change, splits: tuple[str, ...], finding: str, shapes: Path, tmp_path: Path) -> None:
    likeliest = detrcli.doctor(changed(shapes, tmp_path / "data", change, *splits)).findings[0]
    assert finding in likeliest.finding
    assert likeliest.evidence
    assert likeliest.remedy


def test_healthy_data(shapes: Path, tmp_path: Path, detr: Detr) -> None:
    assert len(detr("doctor", shapes).ok().out.splitlines()) == 1
    assert detr("doctor", shapes, "--json").json == {"schema": "detr.doctor/1", "subject": str(shapes), "findings": []}
    assert detr("doctor", tmp_path / "none").code == 2


@pytest.fixture(scope="module")
def run(shapes: Path) -> Path:
    """A short training that works, from the shipped weights."""
    settings = {"epochs": 1, "lr": 3e-4, "batch_size": 8, "workers": 0, "augmentation": "flip", "ema": 0.0}
    detrcli.train(shapes, weights="shapes", out=shapes.parent / "run", report=False, settings=settings)
    return shapes.parent / "run"


@pytest.fixture(scope="module")
def facts(run: Path, shapes: Path) -> RunFacts:
    return RunFacts(
        settings=make_settings(given_settings(run / CONFIG)),
        checkpoint=load_checkpoint(str(run)),
        data=prepare_data("shapes", examine(open_data(shapes))),
        rows=read_rows(run),
        moved=read(run).shares[:, -1],
        diverged=False,
    )


def first(findings: Iterable[Finding]) -> Finding:
    return max(findings, key=lambda finding: finding.weight)


@pytest.mark.parametrize(
    ("settings", "finding"),
    [
        ({"lr": 0.1}, "learning rate is too high"),
        ({"lr": 1e-6}, "learning rate is too low"),
        ({"freeze": "all", "weights": "none"}, "backbone has random weights"),
        ({"warmup": 100_000}, "still rising"),
        ({"dropout": 0.9}, "Dropout"),
        ({"weight_decay": 50.0}, "Weight decay"),
        ({"loss": {"class": 0.001}}, "class term of the loss is negligible"),
        ({"cost": {"l1": 500.0}}, "l1 term of the cost outweighs"),
        ({"no_object": 1.0}, "no-object"),
    ],
)
def test_of_settings(settings: dict[str, Any], finding: str, facts: RunFacts) -> None:
    assert finding in first(run_findings(replace(facts, settings=replace(facts.settings, **settings)))).finding


def test_of_the_input_and_the_curves(facts: RunFacts) -> None:
    checkpoint = facts.checkpoint
    rising = [{"epoch": i, "AP": i / 400} for i in range(1, 100)]
    unstable = replace(facts, rows=rising, moved=np.full(5, 0.8))

    def of_checkpoint(**changes: Any) -> RunFacts:
        return replace(facts, checkpoint=replace(checkpoint, **changes))

    for changed_facts, finding in (
        (of_checkpoint(config=replace(checkpoint.config, queries=2)), "too few queries"),
        (of_checkpoint(preprocessing=replace(checkpoint.preprocessing, mean=(120.0,) * 3)), "normalized"),
        (of_checkpoint(preprocessing=checkpoint.resized(24, 40).preprocessing), "too small in the network's input"),
        (replace(facts, diverged=True), "diverged"),
        (replace(facts, rows=rising[:5]), "too short"),
        (replace(facts, settings=replace(facts.settings, batch_size=80), rows=rising[:40]), "too few steps"),
        (unstable, "matching"),
    ):
        assert finding in first(run_findings(changed_facts)).finding
    assert not list(run_findings(replace(unstable, moved=np.full(5, 0.4))))


@pytest.fixture(scope="module")
def train(shapes: Path) -> Failures:
    """The errors of the shipped weights on training images."""
    return detrcli.report(shapes, "shapes", split="train", limit=40).failures


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (boxes(lambda x, y, w, h: [y, x, h, w]), "transposed"),
        (boxes(lambda x, y, w, h: [SIZE - x - w, y, w, h]), "mirrored"),
        (centers, "centers"),
        (doubled, "twice as large"),
        (shifted, "off by one"),
    ],
)
def test_of_errors_on_val(change: Change, finding: str, shapes: Path, tmp_path: Path, train: Failures) -> None:
    val = detrcli.report(changed(shapes, tmp_path / "data", change, "val"), "shapes").failures
    assert finding in first(failure_findings(val, train)).finding


def test_a_healthy_training(run: Path, shapes: Path, train: Failures) -> None:
    assert detrcli.doctor(run).findings == []
    val = detrcli.report(shapes, "shapes").failures
    assert not list(failure_findings(val, train))
    overfitted = replace(val, scores=replace(val.scores, metrics={"AP": 0.3}))
    assert "overfits" in first(failure_findings(overfitted, train)).finding


def test_of_labels_of_train(shapes: Path, tmp_path: Path) -> None:
    """Labels that a model was trained on, and disagrees with."""
    folder = changed(shapes, tmp_path / "data", partial(shifted, every=3), "train")
    failures = detrcli.report(folder, "shapes", split="train", limit=30).failures
    assert "labels of train are wrong" in first(failure_findings(failures, failures)).finding


def test_of_images_of_val(shapes: Path, tmp_path: Path, train: Failures) -> None:
    folder = changed(shapes, tmp_path / "data", lambda document: None)
    (folder / "val").unlink()
    (folder / "val").mkdir()
    for path in (shapes / "val").iterdir():
        ImageEnhance.Brightness(Image.open(path).convert("RGB")).enhance(0.15).save(folder / "val" / path.name)
    val = detrcli.report(folder, "shapes").failures
    assert "look different" in first(failure_findings(val, train)).finding


def test_of_a_training(shapes: Path, tmp_path: Path, detr: Detr) -> None:
    """From the run folder alone."""
    detrcli.train(
        shapes, model="dino-tiny", weights="none", out=tmp_path / "run", report=False,
        settings={"epochs": 1, "freeze": "all", "workers": 0, "size": SIZE},
    )  # fmt: skip
    assert detr("doctor", tmp_path / "run").ok().out.startswith("1. The frozen backbone has random weights.")
