"""A run of version 0.1, its weights, and what it answered of pictures that can be drawn again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_rules import GOLDEN

from detrcli.config import LossConfig
from detrcli.data.images import open_picture
from detrcli.data.make import make_shapes
from detrcli.data.preprocessing import prepare
from detrcli.inference.detector import Detector
from detrcli.resize import ShortestEdge
from detrcli.structures import Target
from detrcli.variants.tiny import TinyConfig
from detrcli.weights.formats import native
from detrcli.weights.load import load_weights

RUN = GOLDEN / "c3dd491"
TRAINED = LossConfig(
    cost={"class": 2.0, "l1": 5.0, "giou": 2.0}, loss={"class": 3.0, "l1": 5.0, "giou": 2.0}
)  # in the run's config.toml, and in no file of weights then


def answer(name: str) -> Any:
    return json.loads((RUN / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data that the run was trained on, which follows from its numbers."""
    folder = tmp_path_factory.mktemp("earlier") / "small"
    make_shapes(folder, images=12, size=32, classes=("circle", "square", "triangle"), objects=2)
    return folder.parent


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.of(load_weights(str(RUN / "finished")), "cpu")


@pytest.mark.parametrize("run", ["finished", "stopped"])
@pytest.mark.parametrize("file", ["", "best.safetensors", "last.safetensors"])
def test_its_weights_know_how_they_were_trained(run: str, file: str) -> None:
    """By the settings beside them."""
    weights = load_weights(str(RUN / run / file))
    assert weights.config == TinyConfig(
        width=4, encoder_layers=1, decoder_layers=2, dim=16, heads=2, feed_forward=16, dropout=0.1,
        queries=6, classes=3,
    )  # fmt: skip
    assert weights.preprocessing.resize == ShortestEdge(32, 53)
    assert weights.classes.names.tolist() == ["circle", "square", "triangle"]
    assert weights.loss == TRAINED
    assert weights.make_loss().matcher.weights == {"class": 2, "l1": 5, "giou": 2}
    weights.model()


def test_without_its_settings_it_was_trained_as_published(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes((RUN / "finished" / "best.safetensors").read_bytes())
    assert load_weights(str(tmp_path / "w.safetensors")).loss == LossConfig()


def test_saved_again_it_needs_no_settings_beside_it(tmp_path: Path, detector: Detector) -> None:
    native.save(detector.weights, tmp_path / "w.safetensors")
    assert load_weights(str(tmp_path / "w.safetensors")).loss == TRAINED


def test_it_finds_what_it_found(pictures: Path, detector: Detector) -> None:
    for told in answer("predictions")["images"]:
        found = detector.predict(pictures / told["file"], threshold=0.0)
        assert len(found) == len(told["detections"]) == 6
        for i, theirs in enumerate(told["detections"]):
            assert found.queries[i] == theirs["query"]
            assert found.category_ids[i] == theirs["category_id"]
            assert found.labels[i] == theirs["label"]
            assert found.scores[i] == pytest.approx(theirs["score"], abs=1e-5)
            np.testing.assert_allclose(found.boxes[i], theirs["box"], rtol=0, atol=2e-3)


def test_it_matches_and_pays_as_it_did(pictures: Path, detector: Detector) -> None:
    """Costs, pairs and weighted losses of every layer."""
    told = answer("matching")
    index = {1: 0, 2: 1, 3: 2}
    target = Target(
        torch.tensor([index[one["category_id"]] for one in told["targets"]]),
        torch.tensor([one["box"] for one in told["targets"]]),
    )
    image = open_picture(pictures / told["image"]["file"]).image
    output = detector.output([prepare(image, detector.preprocessing)])
    criterion = detector.weights.make_loss()
    matcher = criterion.matcher
    costs = matcher.costs(output.decoder.logits, output.decoder.boxes, [target])
    costs = {**costs, "total": matcher.total(costs)}
    losses = criterion.compute_loss(output, [target])
    assert len(told["layers"]) == len(output.decoder) == 2
    for layer, theirs in enumerate(told["layers"]):
        assert costs.keys() == theirs["cost"].keys()
        for term, values in theirs["cost"].items():  # a row for each query
            torch.testing.assert_close(costs[term][layer].T, torch.tensor(values), rtol=0, atol=2e-5)
        match = losses.matches["decoder"].layer(layer)
        found = dict(zip(match.targets.tolist(), match.queries.tolist(), strict=True))
        assert found == {pair["target"]: pair["query"] for pair in theirs["pairs"]}
        for term, weight in TRAINED.loss.items():
            charged = sum(one[term] for one in theirs["loss"]["targets"])
            charged += theirs["loss"]["no_object"] if term == "class" else 0
            ours = weight * losses.layers["decoder"][term][layer].item()
            assert ours == pytest.approx(charged, abs=1e-5)
