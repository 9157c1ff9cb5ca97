"""What the table of families says, against transformers."""

import json

import pytest
import torch
from here import Detr
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoModelForObjectDetection,
    AutoModelForUniversalSegmentation,
    AutoModelForZeroShotObjectDetection,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES,
    MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES,
    MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES,
)

from detrcli.architectures.adapters.families import FAMILIES, MASK_FAMILIES, OPEN_VOCABULARY
from detrcli.guide import page


def test_families_are_detectors_of_transformers(detr: Detr) -> None:
    assert FAMILIES.keys() <= MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES.keys()
    assert OPEN_VOCABULARY.keys() <= MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES.keys()
    assert MASK_FAMILIES.keys() <= MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES.keys()
    listed = json.loads(detr("models", "--json").out)["families"]
    assert [one["model_type"] for one in listed] == [*FAMILIES, *OPEN_VOCABULARY, *MASK_FAMILIES]


def test_the_guide_lists_each() -> None:
    for model_type, family in {**FAMILIES, **OPEN_VOCABULARY, **MASK_FAMILIES}.items():
        (row,) = [line for line in page("families").splitlines() if f"| `{model_type}` |" in line]
        assert row.startswith(f"| {family.title}")


@pytest.mark.slow
@pytest.mark.parametrize("model_type", [key for key, family in FAMILIES.items() if family.default])
def test_measured_parameters_and_operations(model_type: str) -> None:
    facts = AutoConfig.for_model(model_type).to_dict()
    backbone = facts.get("backbone_config")
    if backbone and "use_pretrained_backbone" in backbone:
        backbone["use_pretrained_backbone"] = False
    del facts["model_type"]
    network = AutoModelForObjectDetection.from_config(AutoConfig.for_model(model_type, **facts)).eval()
    default = FAMILIES[model_type].default
    assert default is not None
    assert sum(p.numel() for p in network.parameters()) == default.parameters
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, default.height, default.width))
    assert counter.get_total_flops() / 1e9 == pytest.approx(default.gflop, abs=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", OPEN_VOCABULARY)
def test_measured_with_two_phrases(model_type: str) -> None:
    """A cat and a remote control, in the tokens of the published vocabularies."""
    default = OPEN_VOCABULARY[model_type].default
    assert default is not None
    network = AutoModelForZeroShotObjectDetection.from_config(AutoConfig.for_model(model_type)).eval()
    assert sum(p.numel() for p in network.parameters()) == default.parameters
    if OPEN_VOCABULARY[model_type].text == "together":
        tokens = [[101, 1037, 4937, 1012, 1037, 6556, 2491, 1012, 102]]
    else:
        tokens = [[49406, 320, 2368, 49407, 0], [49406, 320, 6063, 3366, 49407]]
    texts = torch.tensor(tokens)
    pixels = torch.zeros(1, 3, default.height, default.width)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(pixel_values=pixels, input_ids=texts, attention_mask=(texts > 0).long())
    assert counter.get_total_flops() / 1e9 == pytest.approx(default.gflop, abs=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", MASK_FAMILIES)
def test_measured_with_masks(model_type: str) -> None:
    default = MASK_FAMILIES[model_type].default
    assert default is not None
    network = AutoModelForUniversalSegmentation.from_config(AutoConfig.for_model(model_type)).eval()
    assert sum(p.numel() for p in network.parameters()) == default.parameters
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, default.height, default.width))
    assert counter.get_total_flops() / 1e9 == pytest.approx(default.gflop, abs=0.06)
