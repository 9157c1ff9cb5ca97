"""The weights in this package."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detrcli.architectures import preset
from detrcli.architectures.mask_heads import DETECTOR
from detrcli.checkpoints.formats.native import load_part
from detrcli.checkpoints.load import load_checkpoint
from detrcli.checkpoints.registry import SHIPPED
from detrcli.data.shapes import DEFAULT
from detrcli.errors import WeightsError
from detrcli.resize import ShortestEdge

MODELS = {"shapes": "dino-tiny", "shapes-masks": "dino-tiny-masks", "shapes-detr": "detr-tiny"}


@pytest.mark.parametrize("name", SHIPPED)
def test_they_are_small_and_have_a_record(name: str) -> None:
    shipped = SHIPPED[name]
    assert shipped.path.stat().st_size <= 8_000_000
    masks = {"masks"} if shipped.detector else set()
    facts = {"commands", "stopped", "machine", "minutes", "versions", "metrics"}
    assert shipped.record.keys() == facts | masks
    assert any(f"--model {MODELS[name]} " in command for command in shipped.record["commands"])


@pytest.mark.parametrize("name", SHIPPED)
def test_they_are_presets_trained_on_shapes(name: str) -> None:
    checkpoint = load_checkpoint(name)
    assert (checkpoint.architecture, checkpoint.config) == preset(MODELS[name])
    assert checkpoint.source == name
    assert tuple(checkpoint.classes.names) == DEFAULT
    assert checkpoint.preprocessing.resize == ShortestEdge(160, 266)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_they_reach_the_recorded_metrics(name: str) -> None:
    command = [sys.executable, "-m", "detrcli", "eval", "shapes", "--weights", name, "--json"]
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    recorded = SHIPPED[name].record
    # Rounding differs between machines.
    assert answer["metrics"] == pytest.approx(recorded["metrics"], abs=0.002)
    if "masks" in recorded:
        assert {key: answer["masks"][key] for key in recorded["masks"]} == pytest.approx(recorded["masks"], abs=0.002)


def test_the_mask_head_is_separate_from_its_detector() -> None:
    """The detector is the shipped one, bitwise, and loading leaves torch's random state."""
    head, detector = SHIPPED["shapes-masks"], SHIPPED["shapes"]
    assert head.detector == "shapes"
    assert head.bytes == head.path.stat().st_size + detector.path.stat().st_size <= 10_000_000
    state = torch.get_rng_state()
    both, alone = load_checkpoint("shapes-masks"), load_checkpoint("shapes")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(both.tensors[f"{DETECTOR}{name}"], tensor) for name, tensor in alone.tensors.items())
    both.model()


def test_a_flipped_bit_in_a_mask_head_is_noticed(tmp_path: Path) -> None:
    data = bytearray(SHIPPED["shapes-masks"].path.read_bytes())
    data[-5] ^= 4
    (tmp_path / "head.safetensors").write_bytes(data)
    with pytest.raises(WeightsError, match="damaged"):
        load_part(tmp_path / "head.safetensors", "head")
