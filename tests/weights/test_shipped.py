"""The weights that come with the package."""

import json
import subprocess
import sys

import pytest

from detrcli.data.shapes import DEFAULT
from detrcli.resize import ShortestEdge
from detrcli.variants import preset
from detrcli.weights.load import load_weights
from detrcli.weights.registry import SHIPPED

MODELS = {"shapes": "dino-tiny", "shapes-detr": "detr-tiny"}


@pytest.mark.parametrize("name", SHIPPED)
def test_they_are_small_and_say_where_they_come_from(name: str) -> None:
    shipped = SHIPPED[name]
    assert shipped.path.stat().st_size <= 8_000_000
    assert shipped.record.keys() == {"commands", "stopped", "machine", "minutes", "versions", "metrics"}
    assert any(f"--model {MODELS[name]} " in command for command in shipped.record["commands"])


@pytest.mark.parametrize("name", SHIPPED)
def test_they_are_small_members_of_the_default_shapes(name: str) -> None:
    weights = load_weights(name)
    assert weights.config == preset(MODELS[name])
    assert tuple(weights.classes.names) == DEFAULT
    assert weights.preprocessing.resize == ShortestEdge(160, 266)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_they_reach_what_is_recorded(name: str) -> None:
    command = [sys.executable, "-m", "detrcli", "eval", "shapes", "--weights", name, "--json"]
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    # Another machine rounds otherwise.
    assert answer["metrics"] == pytest.approx(SHIPPED[name].record["metrics"], abs=0.002)
