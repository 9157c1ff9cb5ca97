"""The small members that look by sampled points, through all commands, and the recipe that goes by the data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from here import Detr
from trainings import assert_resumes_to_the_same_bits

from detrcli.architectures import architecture_of, preset
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
    assert "for 20 pictures of 64 x 64, at most 3 objects in each, a quarter of them up to " in trained.err
    assert ", queries 30, lr" in trained.err
    picture = data / "val" / "000000.png"
    shown = detr("predict", picture, "--weights", "run", "--threshold", 0, "--json", "--no-images")
    (image,) = json.loads(shown.out)["images"]
    assert len(image["detections"]) == 100  # the best pairs of 30 queries with 5 classes
    assert detr("eval", data, "--weights", "run", "--json").code == 0

    looked = detr("visualize-attn", picture, "--weights", "run", "--raw", "maps.npz", "--query", 3)
    assert looked.code == 0, looked.err
    maps = np.load("maps.npz")
    assert maps["points"].shape[1:] == (1, 4, 1, 4, 2)  # queries, heads, levels, points
    np.testing.assert_allclose(maps["weights"].sum((-1, -2)), 1, atol=1e-5)
    if model == "dino-tiny":
        refused = detr("visualize-attn", picture, "--weights", "run", "--encoder", "20,20")
        assert refused.code == 2
        assert "no encoder attention" in refused.err
    else:
        assert detr("visualize-attn", picture, "--weights", "run", "--encoder", "20,20").code == 0

    explained = detr("match-debug", data, "--weights", "run", "--image", 17, "--split", "val")
    explained = explained if explained.code == 0 else detr("match-debug", data, "--weights", "run")
    assert explained.code == 0, explained.err
    assert "proposals" in explained.out
    assert ("denoising" in explained.out) == (model == "dino-tiny")
    walked = detr("explain", picture, "--weights", "run")
    assert walked.code == 0
    assert "levels" in walked.out
    assert walked.out.count("proposals ") == 1


@BOTH
@pytest.mark.usefixtures("one_thread")
@pytest.mark.slow
def test_it_resumes_to_the_same_bits(model: str, data: Path, tmp_path: Path) -> None:
    """Denoising's draws and mosaics follow from the step."""
    assert_resumes_to_the_same_bits(data, tmp_path, model=model, augmentation="strong")


@BOTH
@pytest.mark.slow
def test_weights_that_fit_in_part(model: str, detr: Detr, data: Path, tmp_path: Path) -> None:
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


def test_the_recipe_goes_by_the_data() -> None:
    config = preset("dino-tiny")
    architecture = architecture_of(config)
    small = architecture.recipe_for(config, DataFacts(pictures=60, shorter=128, longer=160, objects=5))
    assert (small["size"], small["queries"], small["batch_size"], small["epochs"]) == (128, 30, 15, 150)
    large = architecture.recipe_for(config, DataFacts(pictures=600, shorter=512, longer=512, objects=40))
    assert (large["size"], large["queries"], large["batch_size"], large["epochs"]) == (256, 80, 16, 18)
    assert large["warmup"] == 18 * (600 // 16) // 20


def test_the_recipe_enlarges_pictures_of_small_objects() -> None:
    config = preset("dino-tiny")

    def size(small: int, side: int = 128) -> Any:
        facts = DataFacts(pictures=80, shorter=side, longer=side, objects=5, small=small)
        return architecture_of(config).recipe_for(config, facts)["size"]

    assert [size(small) for small in (30, 16, 14, 12, 2)] == [128, 128, 144, 160, 160]
    assert [size(small, 512) for small in (40, 32, 24)] == [256, 256, 320]
    assert size(1, 32) == 64
