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


def test_they_are_small_and_say_where_they_come_from() -> None:
    shipped = SHIPPED["shapes"]
    assert shipped.path.stat().st_size <= 8_000_000
    assert shipped.record.keys() == {"commands", "stopped", "machine", "minutes", "versions", "metrics"}
    assert shipped.record["commands"][0].startswith("detr train shapes --model detr-tiny ")


def test_they_are_a_tiny_detr_of_the_default_shapes() -> None:
    weights = load_weights("shapes")
    assert weights.config == preset("detr-tiny")
    assert tuple(weights.classes.names) == DEFAULT
    assert weights.preprocessing.resize == ShortestEdge(160, 266)


@pytest.mark.slow
def test_they_reach_what_is_recorded() -> None:
    command = [sys.executable, "-m", "detrcli", "eval", "shapes", "--weights", "shapes", "--json"]
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    # Another machine rounds otherwise.
    assert answer["metrics"] == pytest.approx(SHIPPED["shapes"].record["metrics"], abs=0.002)
