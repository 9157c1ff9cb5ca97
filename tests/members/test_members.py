"""Architectures of other packages, which differ from DETR in everything, work in all commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from here import Detr
from members import sampler, stranger
from trainings import assert_resumes_to_the_same_bits, change_annotations, rows_of, shapes_folder, without_first_objects

import detrcli.architectures
from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.make import make_shapes

QUICK = ("--epochs", 2, "--batch-size", 4, "--set", "workers=0")


data = shapes_folder(images=20, size=40, objects=3)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detrcli.architectures, "_ARCHITECTURES", list(detrcli.architectures._ARCHITECTURES))
    detrcli.architectures.register(sampler.ARCHITECTURE)
    detrcli.architectures.register(stranger.ARCHITECTURE)


def trained(detr: Detr, data: Path, model: str, *options: object) -> list[dict[str, str]]:
    """Train into the folder `run`, and return the rows of its metrics."""
    detr("train", data, "--model", model, "--weights", "none", "--out", "run", *QUICK, *options).ok()
    return rows_of(Path("run"))


def test_the_sampler_is_trained_by_all_its_terms_and_shows_its_attention(detr: Detr, data: Path) -> None:
    weights = ("--set", "loss.center=3", "--set", "loss.class=1")
    rows = trained(detr, data, "sampler", *weights)
    names = [name for name in rows[0] if name.startswith("loss_")]
    terms = ("class", "l1", "giou", "center")
    assert names == [f"loss_{name}" for name in (*terms, *(f"denoising_{term}" for term in terms))]
    assert float(rows[1]["loss"]) < float(rows[0]["loss"])
    assert float(rows[0]["lr"]) > float(rows[1]["lr"]) > 0  # its recipe has a cosine schedule
    checkpoint = load_checkpoint("run")
    assert checkpoint.loss.loss == {"class": 1, "l1": 5, "giou": 2, "center": 3}
    assert checkpoint.preprocessing.resize.kind == "exact-size"

    look = ("visualize-attn", data / "val" / "000000.png", "--weights", "run")
    shown = detr(*look, "--query", 3, "--query", 5, "--layer", "all", "--raw", "raw.npz", "--json").ok()
    raw = np.load("raw.npz")
    assert raw["points"].shape == (2, 2, sampler.HEADS, 2, sampler.POINTS, 2)
    assert raw["weights"].shape == raw["points"].shape[:-1]
    np.testing.assert_allclose(raw["weights"].sum((3, 4)), 1, atol=1e-5)  # of each head
    np.testing.assert_allclose(raw["cross"].sum((-2, -1)), 1, atol=1e-5)
    assert raw["points"].max() > 1  # in pixels of the image
    for kind in (("--relevance",), ("--self", "--query", 0), ("--encoder", "1,1")):
        detr(*look, *kind).fails(2, "cross-attention")  # its abilities

    shown = detr("match-debug", data, "--weights", "run", "--layer", "all", "--json").ok()
    assert shown.json["cost_weights"] == {"class": 2, "l1": 5, "giou": 2}
    assert len(shown.json["layers"]) == 2
    assert detr("match-debug", data, "--weights", "run", "--all").code == 0
    assert detr("match-debug", "--run", "run").code == 0

    shown = detr("train", data, "--model", "detr-tiny", "--weights", "none", *QUICK, *weights)
    assert shown.code == 2  # it has no such term
    assert "center" in shown.err


def test_batches_without_objects(detr: Detr, tmp_path: Path) -> None:
    """They are accumulated with others, first or later, and do not disturb the normalization."""
    make_shapes(tmp_path / "data", images=6, size=32, objects=2)
    change_annotations(tmp_path / "data", without_first_objects, "train")
    rows = trained(detr, tmp_path / "data", "sampler", "--batch-size", 1, "--set", "accumulate=2", "--epochs", 3)
    assert {"loss_denoising_class", "loss_denoising_giou"} <= rows[0].keys()


@pytest.mark.parametrize("model", ["sampler", "stranger"])
@pytest.mark.usefixtures("one_thread")
def test_it_resumes_to_the_same_bits(model: str, data: Path, tmp_path: Path) -> None:
    assert_resumes_to_the_same_bits(data, tmp_path, model=model)


@pytest.mark.parametrize("model", ["sampler", "stranger"])
def test_prediction_evaluation_and_fine_tuning(model: str, detr: Detr, data: Path) -> None:
    trained(detr, data, model)
    image = data / "val" / "000000.png"
    shown = detr("predict", image, "--weights", "run", "--threshold", "0", "--json", "--no-images").ok()
    detections = shown.json["images"][0]["detections"]
    queries = [detection["query"] for detection in detections]
    if model == "sampler":  # the best 20 pairs of 7 queries with 5 classes
        assert len(queries) == 20
        assert len(set(queries)) < 20
        scores = [detection["score"] for detection in detections]
        assert scores == sorted(scores, reverse=True)
    else:
        assert queries == list(range(6))
    assert detr("eval", data, "--weights", "run", "--json").json["metrics"].keys() >= {"AP", "AR100"}
    assert detr("explain", image, "--weights", "run").code == 0
    again = detr("train", data, "--weights", "run", "--out", "more", *QUICK).ok()
    assert "kept by name: 5" in again.err


def test_the_stranger_is_saved_as_a_folder_and_has_no_attention(detr: Detr, data: Path) -> None:
    rows = trained(detr, data, "stranger")
    assert sorted(path.name for path in Path("run/best").iterdir()) == ["README", "detrcli.json", "weights"]
    assert not list(Path("run").glob("*.safetensors"))
    assert {"loss_distance", "loss_size"} <= rows[0].keys()
    assert rows[0]["class_error"] == ""  # its matching is unknown
    assert load_checkpoint("run/last").preprocessing.resize == stranger.Square(32)
    for command in (
        ("visualize-attn", data / "val" / "000000.png", "--query", "0"),
        ("match-debug", data),
        ("match-debug", data, "--all"),
    ):
        shown = detr(*command, "--weights", "run")
        assert shown.code == 2, (command, shown.err)
        assert "bug" not in shown.err
    tensors = Path("run/last/weights/model.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\x01")
    assert detr("eval", data, "--weights", "run/last").code == 4


@pytest.mark.slow
def test_an_entry_point(data: Path, tmp_path: Path) -> None:
    """An installed package lists its architecture as an entry point."""
    (tmp_path / "toy_detr.py").write_text(Path(sampler.__file__).read_text())
    info = tmp_path / "toy_detr-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-detr\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[detrcli.architectures]\nsampler = toy_detr:ARCHITECTURE\n")
    root = str(Path(detrcli.architectures.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), root])}
    for arguments in (
        ("train", data, "--model", "sampler", "--weights", "none", "--out", "run", *QUICK),
        ("eval", data, "--weights", "run", "--json"),
    ):
        command = [sys.executable, "-m", "detrcli", *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["schema"] == "detr.eval/1"
