"""What the table of families says, against transformers."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForObjectDetection
from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES

from detrcli.variants.adapters.families import FAMILIES


def test_families_are_detectors_of_transformers() -> None:
    assert FAMILIES.keys() <= MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES.keys()


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
