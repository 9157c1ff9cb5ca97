"""The weights that come with the package."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detrcli.architectures import preset
from detrcli.architectures.with_masks import DETECTOR
from detrcli.checkpoints.formats.native import load_part
from detrcli.checkpoints.load import load_checkpoint
from detrcli.checkpoints.registry import SHIPPED
from detrcli.data.shapes import DEFAULT
from detrcli.errors import WeightsError
from detrcli.resize import ShortestEdge

MODELS = {"shapes": "dino-tiny", "shapes-masks": "dino-tiny-masks", "shapes-detr": "detr-tiny"}
TOGETHER = 10_000_000  # bytes of a detector and its mask head


@pytest.mark.parametrize("name", SHIPPED)
def test_they_are_small_and_say_where_they_come_from(name: str) -> None:
    shipped = SHIPPED[name]
    assert shipped.path.stat().st_size <= 8_000_000
    of_masks = {"masks"} if shipped.detector else set()
    facts = {"commands", "stopped", "machine", "minutes", "versions", "metrics"}
    assert shipped.record.keys() == facts | of_masks
    assert any(f"--model {MODELS[name]} " in command for command in shipped.record["commands"])


@pytest.mark.parametrize("name", SHIPPED)
def test_they_are_small_members_of_the_default_shapes(name: str) -> None:
    checkpoint = load_checkpoint(name)
    assert checkpoint.config == preset(MODELS[name])
    assert tuple(checkpoint.classes.names) == DEFAULT
    assert checkpoint.preprocessing.resize == ShortestEdge(160, 266)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_they_reach_what_is_recorded(name: str) -> None:
    command = [sys.executable, "-m", "detrcli", "eval", "shapes", "--weights", name, "--json"]
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    # Another machine rounds otherwise.
    recorded = SHIPPED[name].record
    assert answer["metrics"] == pytest.approx(recorded["metrics"], abs=0.002)
    if "masks" in recorded:
        assert {key: answer["masks"][key] for key in recorded["masks"]} == pytest.approx(recorded["masks"], abs=0.002)


def test_a_mask_head_changes_nothing_of_its_detector() -> None:
    """It is kept apart, and the detector below it is the shipped one to the bit; torch's random state stays."""
    head = SHIPPED["shapes-masks"]
    assert head.detector == "shapes"
    assert head.bytes == head.path.stat().st_size + SHIPPED["shapes"].path.stat().st_size <= TOGETHER
    state = torch.get_rng_state()
    both, alone = load_checkpoint("shapes-masks"), load_checkpoint("shapes")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(both.tensors[f"{DETECTOR}{name}"], one) for name, one in alone.tensors.items())
    assert both.source == "shapes-masks"
    both.model()  # every tensor is there


def test_a_changed_bit_in_a_mask_head_is_noticed(tmp_path: Path) -> None:
    data = bytearray(SHIPPED["shapes-masks"].path.read_bytes())
    data[-5] ^= 4
    (tmp_path / "head.safetensors").write_bytes(data)
    with pytest.raises(WeightsError, match="damaged"):
        load_part(tmp_path / "head.safetensors", "head")
