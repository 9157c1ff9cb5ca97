"""The seams hold: members that differ from DETR in everything go all the way, and the core knows nothing of them."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from here import Detr
from members import sampler, stranger
from trainings import assert_resumes_to_the_same_bits

import detrcli.architectures
from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.make import make_shapes

HERE = Path(__file__).parent
QUICK = ("--epochs", 2, "--batch-size", 4, "--set", "workers=0")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, images=20, size=40, objects=3)
    return folder


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lines that register, and all that is undone afterwards."""
    monkeypatch.setattr(detrcli.architectures, "_ARCHITECTURES", list(detrcli.architectures._ARCHITECTURES))
    detrcli.architectures.register(sampler.ARCHITECTURE)
    detrcli.architectures.register(stranger.ARCHITECTURE)


def trained(detr: Detr, data: Path, model: str, run: str = "run") -> Path:
    shown = detr("train", data, "--model", model, "--weights", "none", "--out", run, *QUICK)
    assert shown.code == 0, shown.err
    return Path(run)


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_sampler_learns_with_all_its_terms_and_groups(detr: Detr, data: Path) -> None:
    run = trained(detr, data, "sampler")
    rows = rows_of(run)
    names = [name for name in rows[0] if name.startswith("loss_")]
    terms = ("class", "l1", "giou", "centre")
    assert names == [f"loss_{name}" for name in (*terms, *(f"denoising_{term}" for term in terms))]
    assert float(rows[1]["loss"]) < float(rows[0]["loss"])
    assert float(rows[0]["lr"]) > float(rows[1]["lr"]) > 0  # its own recipe: a cosine
    checkpoint = load_checkpoint(str(run))
    assert checkpoint.loss.loss["centre"] == 1
    assert checkpoint.preprocessing.resize.kind == "exact-size"


def test_a_term_that_only_it_has_can_be_set(detr: Detr, data: Path) -> None:
    more = ("--set", "loss.centre=3", "--set", "loss.class=1")
    shown = detr("train", data, "--model", "sampler", "--weights", "none", "--out", "run", *QUICK, *more)
    assert shown.code == 0, shown.err
    assert load_checkpoint("run").loss.loss == {"class": 1, "l1": 5, "giou": 2, "centre": 3}
    wrong = detr("train", data, "--model", "detr-tiny", "--weights", "none", *QUICK, *more)
    assert wrong.code == 2
    assert "centre" in wrong.err


def test_batches_without_objects_beside_others(detr: Detr, tmp_path: Path) -> None:
    """Accumulated one by one, first or later, they do not disturb what the others are divided by."""
    make_shapes(tmp_path / "data", images=6, size=32, objects=2)
    path = tmp_path / "data" / "annotations" / "instances_train.json"
    document = json.loads(path.read_text())
    document["annotations"] = [one for one in document["annotations"] if one["image_id"] > 3]
    path.write_text(json.dumps(document))
    more = ("--batch-size", 1, "--set", "accumulate=2", "--set", "workers=0", "--epochs", 3)
    shown = detr("train", "data", "--model", "sampler", "--weights", "none", "--out", "run", *more)
    assert shown.code == 0, shown.err
    assert {"loss_denoising_class", "loss_denoising_giou"} <= rows_of(Path("run"))[0].keys()


@pytest.mark.parametrize("model", ["sampler", "stranger"])
@pytest.mark.usefixtures("one_thread")
def test_it_resumes_to_the_same_bits(model: str, data: Path, tmp_path: Path) -> None:
    assert_resumes_to_the_same_bits(data, tmp_path, model=model)


@pytest.mark.parametrize("model", ["sampler", "stranger"])
def test_it_predicts_and_evaluates(model: str, detr: Detr, data: Path) -> None:
    run = trained(detr, data, model)
    picture = data / "val" / "000000.png"
    shown = detr("predict", picture, "--weights", run, "--threshold", "0", "--json", "--no-images")
    assert shown.code == 0, shown.err
    (image,) = json.loads(shown.out)["images"]
    queries = [one["query"] for one in image["detections"]]
    if model == "sampler":  # the best 20 pairs of 7 queries with 5 classes
        assert len(queries) == 20
        assert len(set(queries)) < 20
        scores = [one["score"] for one in image["detections"]]
        assert scores == sorted(scores, reverse=True)
    else:
        assert queries == list(range(6))
    evaluated = detr("eval", data, "--weights", run, "--json")
    assert evaluated.code == 0, evaluated.err
    assert json.loads(evaluated.out)["metrics"].keys() >= {"AP", "AR100"}
    assert detr("explain", picture, "--weights", run).code == 0
    # Once more from its own weights, for other classes.
    again = detr("train", data, "--weights", run, "--out", "more", *QUICK)
    assert again.code == 0, again.err
    assert "kept by name: 5" in again.err


def test_the_stranger_is_kept_as_a_folder(detr: Detr, data: Path) -> None:
    run = trained(detr, data, "stranger")
    assert sorted(path.name for path in (run / "best").iterdir()) == ["README", "detrcli.json", "weights"]
    assert not list(run.glob("*.safetensors"))
    rows = rows_of(run)
    assert {"loss_distance", "loss_size"} <= rows[0].keys()
    assert rows[0]["class_error"] == ""  # nobody says who was matched with whom
    checkpoint = load_checkpoint(str(run / "last"))
    assert checkpoint.preprocessing.resize == stranger.Square(32)
    tensors = run / "last" / "weights" / "model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\x01")
    assert detr("eval", data, "--weights", run / "last").code == 4


def test_where_the_sampler_looks(detr: Detr, data: Path) -> None:
    run = trained(detr, data, "sampler")
    picture = data / "val" / "000000.png"
    shown = detr(
        "visualize-attn", picture, "--weights", run, "--query", 3, "--query", 5, "--layer", "all",
        "--raw", "raw.npz", "--json",
    )  # fmt: skip
    assert shown.code == 0, shown.err
    raw = np.load("raw.npz")
    assert raw["points"].shape == (2, 2, sampler.HEADS, 2, sampler.POINTS, 2)
    assert raw["weights"].shape == raw["points"].shape[:-1]
    np.testing.assert_allclose(raw["weights"].sum((3, 4)), 1, atol=1e-5)  # of each head
    np.testing.assert_allclose(raw["cross"].sum((-2, -1)), 1, atol=1e-5)
    assert raw["points"].max() > 1  # in pixels of the picture
    refused = detr("visualize-attn", picture, "--weights", run, "--relevance")
    assert refused.code == 2
    assert "cross-attention" in refused.err  # what it can


def test_how_the_sampler_was_matched(detr: Detr, data: Path) -> None:
    run = trained(detr, data, "sampler")
    shown = detr("match-debug", data, "--weights", run, "--layer", "all", "--json")
    assert shown.code == 0, shown.err
    found = json.loads(shown.out)
    assert found["cost_weights"] == {"class": 2, "l1": 5, "giou": 2}
    assert len(found["layers"]) == 2
    assert detr("match-debug", data, "--weights", run, "--all").code == 0
    assert detr("match-debug", "--run", run).code == 0


def test_what_the_stranger_cannot_show(detr: Detr, data: Path) -> None:
    run = trained(detr, data, "stranger")
    for command in (
        ("visualize-attn", data / "val" / "000000.png", "--query", "0"),
        ("match-debug", data),
        ("match-debug", data, "--all"),
    ):
        refused = detr(*command, "--weights", run)
        assert refused.code == 2, (command, refused.err)
        assert "bug" not in refused.err


@pytest.mark.slow
def test_a_member_of_another_package(data: Path, tmp_path: Path) -> None:
    """An installed package names its member as an entry point, and `detr` knows it."""
    (tmp_path / "toy_detr.py").write_text((HERE / "sampler.py").read_text())
    info = tmp_path / "toy_detr-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-detr\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[detrcli.architectures]\nsampler = toy_detr:ARCHITECTURE\n")
    root = str(Path(detrcli.architectures.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), root])}

    def detr(*arguments: object) -> str:
        command = [sys.executable, "-m", "detrcli", *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    detr("train", data, "--model", "sampler", "--weights", "none", "--out", "run", *QUICK)
    found = json.loads(detr("eval", data, "--weights", "run", "--json"))
    assert found["schema"] == "detr.eval/1"
