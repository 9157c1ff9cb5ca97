"""The small models with deformable attention in all commands, and their recipe."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from here import Detr
from trainings import assert_resumes_to_the_same_bits

from detrcli.architectures import preset
from detrcli.architectures.architecture import DataFacts
from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.make import make_shapes

BOTH = pytest.mark.parametrize("model", ["dino-tiny", pytest.param("deformable-tiny", marks=pytest.mark.slow)])
QUICK = ("--epochs", 2, "--batch-size", 4, "--set", "workers=0")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, images=20, size=64, objects=3)
    return folder


@BOTH
def test_all_commands(model: str, detr: Detr, data: Path) -> None:
    trained = detr("train", data, "--model", model, "--weights", "none", "--out", "run", *QUICK)
    assert trained.code == 0, trained.err
    assert "20 images of 64 x 64, at most 3 objects in each" in trained.err
    assert ", queries 30, lr" in trained.err
    image = data / "val" / "000000.png"
    shown = detr("predict", image, "--weights", "run", "--threshold", 0, "--json", "--no-images")
    assert len(shown.json["images"][0]["detections"]) == 100  # the best pairs of 30 queries with 5 classes
    assert detr("eval", data, "--weights", "run", "--json").code == 0

    shown = detr("visualize-attn", image, "--weights", "run", "--raw", "maps.npz", "--query", 3)
    assert shown.code == 0, shown.err
    maps = np.load("maps.npz")
    assert maps["points"].shape[1:] == (1, 4, 1, 4, 2)  # queries, heads, levels, points
    np.testing.assert_allclose(maps["weights"].sum((-1, -2)), 1, atol=1e-5)
    shown = detr("visualize-attn", image, "--weights", "run", "--encoder", "20,20")
    assert shown.code == (2 if model == "dino-tiny" else 0)  # it has no encoder layers
    assert ("no encoder attention" in shown.err) == (model == "dino-tiny")

    shown = detr("match-debug", data, "--weights", "run")
    assert shown.code == 0, shown.err
    assert "proposals" in shown.out
    assert ("denoising" in shown.out) == (model == "dino-tiny")
    shown = detr("explain", image, "--weights", "run")
    assert shown.code == 0
    assert "levels" in shown.out
    assert shown.out.count("proposals ") == 1


@BOTH
@pytest.mark.usefixtures("one_thread")
@pytest.mark.slow
def test_it_resumes_to_the_same_bits(model: str, data: Path, tmp_path: Path) -> None:
    """Denoising's draws and mosaics follow from the step."""
    assert_resumes_to_the_same_bits(data, tmp_path, model=model, augmentation="strong")


@BOTH
@pytest.mark.slow
def test_training_on_other_classes(model: str, detr: Detr, data: Path, tmp_path: Path) -> None:
    assert detr("train", data, "--model", model, "--weights", "none", "--out", "run", *QUICK).code == 0
    other = tmp_path / "other"
    make_shapes(other, images=8, size=64, objects=3)
    for path in (other / "annotations").iterdir():
        document = json.loads(path.read_text())
        document["categories"][0]["name"] = "something new"
        path.write_text(json.dumps(document))
    again = detr("train", other, "--weights", "run", "--out", "more", *QUICK)
    assert again.code == 0, again.err
    assert "something new" in again.err
    assert "something new" in load_checkpoint("more").classes.names


def test_the_recipe_depends_on_the_data() -> None:
    architecture, config = preset("dino-tiny")
    small = architecture.recipe(config, DataFacts(images=60, shorter=128, longer=160, objects=5))
    assert (small["size"], small["queries"], small["batch_size"], small["epochs"]) == (128, 30, 15, 150)
    large = architecture.recipe(config, DataFacts(images=600, shorter=512, longer=512, objects=40))
    assert (large["size"], large["queries"], large["batch_size"], large["epochs"]) == (256, 80, 16, 18)
    assert large["warmup"] == 18 * (600 // 16) // 20


def test_the_recipe_enlarges_images_of_small_objects() -> None:
    architecture, config = preset("dino-tiny")

    def size(small: int, side: int = 128) -> Any:
        return architecture.recipe(config, DataFacts(80, side, side, objects=5, small=small))["size"]

    assert [size(small) for small in (30, 16, 14, 12, 2)] == [128, 128, 144, 160, 160]
    assert [size(small, 512) for small in (40, 32, 24)] == [256, 256, 320]
    assert size(1, 32) == 64
