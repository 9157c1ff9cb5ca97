"""What `detr doctor` says first of data, settings and mistakes that are wrong in one way; of others nothing."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from here import Detr

from detrcli.api.reporting import Diagnosis, doctor
from detrcli.api.training import TrainingResult, train
from detrcli.architectures import architecture_of, preset
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.data.examine import examine
from detrcli.data.make import make_shapes
from detrcli.data.source import open_data
from detrcli.doctor.failure_rules import of_failures
from detrcli.doctor.finding import likeliest_first
from detrcli.doctor.run_rules import RunFacts, of_run
from detrcli.evaluation.results import Results
from detrcli.training.settings import Settings
from detrcli.training.setup import prepare_data

SIZE = 64


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doctor") / "shapes"
    make_shapes(folder, images=80, size=SIZE, objects=4)
    return folder


Spoil = Callable[[dict[str, Any]], None]


def diagnosed(shapes: Path, tmp_path: Path, spoil: Spoil, *splits: str) -> Diagnosis:
    """The same pictures with other annotations."""
    root = tmp_path / "data"
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (root / split).symlink_to(shapes / split)
        document = json.loads((shapes / "annotations" / f"instances_{split}.json").read_text())
        if split in (splits or ("train", "val")):
            spoil(document)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return doctor(root)


def boxes(change: Callable[[float, float, float, float], list[float]]) -> Spoil:
    def spoil(document: dict[str, Any]) -> None:
        for one in document["annotations"]:
            one["bbox"] = change(*one["bbox"])

    return spoil


def crowds(document: dict[str, Any]) -> None:
    for one in document["annotations"][::2]:
        one["iscrowd"] = 1


def twice(document: dict[str, Any]) -> None:
    document["annotations"] += [{**one, "id": 5000 + one["id"]} for one in document["annotations"][::4]]


def without_stars(document: dict[str, Any]) -> None:
    document["annotations"] = [one for one in document["annotations"] if one["category_id"] != 4]


def nearly_empty(document: dict[str, Any]) -> None:
    document["annotations"] = [one for one in document["annotations"] if one["image_id"] % 5 == 0]


@pytest.mark.parametrize(
    ("spoil", "splits", "said"),
    [
        (boxes(lambda x, y, w, h: [x / SIZE, y / SIZE, w / SIZE, h / SIZE]), (), "are shares of the picture"),
        (boxes(lambda x, y, w, h: [x + w / 2, y + h / 2, w, h]), (), "centres"),
        (boxes(lambda x, y, w, h: [x, y, x + w, y + h]), (), "corners"),
        (boxes(lambda x, y, w, h: [2 * x, 2 * y, 2 * w, 2 * h]), (), "pictures twice as large"),
        (boxes(lambda x, y, w, h: [x / 2, y / 2, w / 2, h / 2]), (), "those of smaller pictures"),
        (crowds, ("train",), "as crowds"),
        (twice, ("train",), "annotated twice"),
        (without_stars, ("train",), "missing in train: star"),
        (nearly_empty, ("train",), "no annotation"),
    ],
)
def test_of_data(spoil: Spoil, splits: tuple[str, ...], said: str, shapes: Path, tmp_path: Path) -> None:
    found = diagnosed(shapes, tmp_path, spoil, *splits).findings
    assert said in found[0].finding, found
    assert found[0].evidence
    assert found[0].remedy


def test_healthy_data(shapes: Path, tmp_path: Path, detr: Detr) -> None:
    assert diagnosed(shapes, tmp_path, lambda document: None).findings == []
    shown = detr("doctor", shapes)
    assert (shown.code, shown.out) == (0, f"{shapes}: nothing stands out.\n")
    document = detr("doctor", shapes, "--json").json
    assert document == {"schema": "detr.doctor/1", "subject": str(shapes), "findings": []}
    assert detr("doctor", tmp_path / "none").code == 2


@pytest.fixture
def healthy(shapes: Path) -> RunFacts:
    """A training by the recipe of its model, that went well."""
    config = replace(preset("dino-tiny"), queries=30)
    architecture = architecture_of(config)
    data = prepare_data("shapes", examine(open_data(shapes)))
    checkpoint = Checkpoint(
        source="run", config=config, tensors={}, classes=data.classes, preprocessing=architecture.preprocessing,
        loss=architecture.loss,
    )  # fmt: skip
    return RunFacts(
        settings=Settings(
            model="dino-tiny", weights="none", lr=2.5e-3, batch_size=16, epochs=60, ema=0.97, warmup=10,
            weight_decay=0.05, augmentation="strong",
        ),
        checkpoint=checkpoint,
        data=data,
        rows=[{"epoch": i, "loss": 10 / i, "AP": 0.7 * (1 - 1 / i)} for i in range(1, 61)],
        moved=np.array([0.6, 0.4, 0.2, 0.1]),
        diverged=False,
    )  # fmt: skip


def test_a_healthy_training(healthy: RunFacts) -> None:
    assert list(of_run(healthy)) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lr": 0.1}, "learning rate is too high"),
        ({"lr": 1e-6}, "learning rate is too low"),
        ({"freeze": "all"}, "backbone is frozen"),
        ({"warmup": 100_000}, "still rising"),
        ({"dropout": 0.9}, "Dropout"),
        ({"weight_decay": 50.0}, "Weight decay"),
        ({"loss": {"class": 0.001}}, "class term of the loss weighs next to nothing"),
        ({"cost": {"l1": 500.0}}, "l1 term of the cost outweighs"),
        ({"no_object": 1.0}, "To predict nothing pays"),
    ],
)
def test_of_settings(settings: dict[str, Any], said: str, healthy: RunFacts) -> None:
    found = likeliest_first(list(of_run(replace(healthy, settings=replace(healthy.settings, **settings)))))
    assert said in found[0].finding


def test_of_a_run(healthy: RunFacts) -> None:
    few = replace(healthy.checkpoint, config=replace(healthy.checkpoint.config, queries=2))
    assert "too few queries" in next(of_run(replace(healthy, checkpoint=few))).finding
    grey = replace(
        healthy.checkpoint, preprocessing=replace(healthy.checkpoint.preprocessing, mean=(120.0, 120.0, 120.0))
    )
    assert "normalised" in next(of_run(replace(healthy, checkpoint=grey))).finding
    tiny = replace(healthy.checkpoint, preprocessing=healthy.checkpoint.preprocessing.with_size(24, 40))
    assert "too small in the network's input" in next(of_run(replace(healthy, checkpoint=tiny))).finding
    assert "diverged" in next(of_run(replace(healthy, diverged=True))).finding
    short = replace(healthy, rows=healthy.rows[:3])
    assert any("too short" in one.finding for one in of_run(short))
    large = replace(healthy, settings=replace(healthy.settings, batch_size=80), rows=healthy.rows[:40])
    assert any("too few steps" in one.finding for one in of_run(large))
    unsettled = replace(healthy, moved=np.full(5, 0.8), rows=[{**row, "AP": 0.1} for row in healthy.rows])
    assert any("does not settle" in one.finding for one in of_run(unsettled))


class Mistakes:
    """What `of_failures` looks at, of pictures of 100 x 100 with detections that are right."""

    def __init__(self, seed: int = 0) -> None:
        from split import truth

        rng = np.random.default_rng(seed)
        objects = [
            (image, int(rng.choice([3, 8])), (*rng.uniform(0, 30, 2), *rng.uniform(10, 20, 2)))
            for image in range(1, 41)
        ]
        self.truth = truth(*objects, images=40)
        self.results = Results(
            self.truth.of_image, self.truth.of_category, self.truth.boxes, np.full(len(objects), 0.9)
        )
        self.split = "val"
        self.survey = SimpleNamespace(images=[SimpleNamespace(image_id=i, place=i) for i in range(1, 41)])
        self.session = SimpleNamespace(
            size=lambda place: (100, 100), picture=lambda place: np.zeros((4, 4, 3), dtype=np.uint8)
        )
        self.outcomes = SimpleNamespace(objects=len(objects))
        self.suspects: dict[str, list[Any]] = {"wrong_label": [], "missing_label": [], "loose_box": [], "duplicate": []}
        self.scores = SimpleNamespace(metrics={"AP": 0.8})


def first(val: Mistakes, train: Mistakes | None = None) -> str:
    found = likeliest_first(list(of_failures(val, train)))  # type: ignore[arg-type]  # it has what is looked at
    return found[0].finding if found else ""


def test_of_mistakes() -> None:
    assert first(Mistakes(), Mistakes()) == ""
    for change, said in (
        (lambda b: b[:, [1, 0, 3, 2]], "turned"),
        (lambda b: np.column_stack([100 - b[:, 0] - b[:, 2], b[:, 1:]]), "mirrored"),
        (lambda b: np.column_stack([b[:, :2] + b[:, 2:] / 2, b[:, 2:]]), "centres"),
        (lambda b: 2 * b, "twice as large"),
    ):
        val = Mistakes()
        val.truth = replace(val.truth, boxes=change(val.truth.boxes))
        assert said in first(val)
    val = Mistakes()
    val.truth = replace(val.truth, of_category=np.where(val.truth.of_category == 3, 8, 3))
    assert "off by one" in first(val, Mistakes())
    assert first(val, val) == ""  # train says the same: it was learned so
    train = Mistakes()
    train.suspects["wrong_label"] = [SimpleNamespace(score=0.9, suspicion=0.9)] * 10
    assert "labels of train are wrong" in first(Mistakes(), train)
    val = Mistakes()
    val.scores = SimpleNamespace(metrics={"AP": 0.2})
    assert "by heart" in first(val, Mistakes())
    val.session.picture = lambda place: np.full((4, 4, 3), 200, dtype=np.uint8)
    assert "look other" in first(val, Mistakes())


@pytest.mark.slow
def test_of_a_training(shapes: Path, tmp_path: Path, detr: Detr) -> None:
    """From the run folder alone: settings, curves and mistakes."""
    ended = train(
        shapes, model="dino-tiny", weights="none", out=tmp_path / "run", report=False,
        settings={"epochs": 3, "freeze": "all", "workers": 0},
    )  # fmt: skip
    assert isinstance(ended, TrainingResult)
    shown = detr("doctor", tmp_path / "run")
    assert shown.code == 0, shown.err
    assert shown.out.startswith("1. The backbone is frozen as it was drawn at random.")
