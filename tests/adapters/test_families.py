"""The table of families, compared with transformers."""

from typing import Any

import pytest
import torch
import transformers
from here import Detr
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig
from transformers.models.auto import modeling_auto

from detrcli.architectures.adapters.families import FAMILIES, INSTANCE_FAMILIES, MASK_FAMILIES, OPEN_VOCABULARY
from detrcli.guide import page

ALL = {**FAMILIES, **OPEN_VOCABULARY, **MASK_FAMILIES}


def test_families_are_models_of_transformers(detr: Detr) -> None:
    assert FAMILIES.keys() <= modeling_auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES.keys()
    assert OPEN_VOCABULARY.keys() <= modeling_auto.MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES.keys()
    assert MASK_FAMILIES.keys() <= modeling_auto.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES.keys()
    assert INSTANCE_FAMILIES.keys() <= modeling_auto.MODEL_FOR_INSTANCE_SEGMENTATION_MAPPING_NAMES.keys()
    families = detr("models", "--json").json["families"]
    assert [family["model_type"] for family in families] == [
        *FAMILIES,
        *INSTANCE_FAMILIES,
        *OPEN_VOCABULARY,
        *MASK_FAMILIES,
    ]


def test_the_guide_lists_each() -> None:
    for model_type, family in ALL.items():
        (row,) = [line for line in page("families").splitlines() if f"| `{model_type}` |" in line]
        assert row.startswith(f"| {family.title}")
    assert f"| {INSTANCE_FAMILIES['rf_detr'].title} | `rf_detr` of `RfDetrForInstanceSegmentation` |" in page(
        "families"
    )


@pytest.mark.slow
@pytest.mark.parametrize("model_type", [model_type for model_type, family in ALL.items() if family.default])
def test_parameters_and_operations(model_type: str) -> None:
    """Of open-vocabulary models with two phrases, in tokens of the published vocabularies."""
    facts = AutoConfig.for_model(model_type).to_dict()
    backbone = facts.get("backbone_config")
    if backbone and "use_pretrained_backbone" in backbone:
        backbone["use_pretrained_backbone"] = False
    del facts["model_type"]
    family, inputs = ALL[model_type], dict[str, Any]()
    task = "ObjectDetection"
    if model_type in MASK_FAMILIES:
        task = "UniversalSegmentation"
    elif model_type in OPEN_VOCABULARY:
        task = "ZeroShotObjectDetection"
        if family.text == "together":
            texts = torch.tensor([[101, 1037, 4937, 1012, 1037, 6556, 2491, 1012, 102]])
        else:
            texts = torch.tensor([[49406, 320, 2368, 49407, 0], [49406, 320, 6063, 3366, 49407]])
        inputs = {"input_ids": texts, "attention_mask": (texts > 0).long()}
    network = getattr(transformers, f"AutoModelFor{task}").from_config(AutoConfig.for_model(model_type, **facts)).eval()
    default = family.default
    assert sum(p.numel() for p in network.parameters()) == default.parameters
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(model_type in FAMILIES):
        network(pixel_values=torch.zeros(1, 3, default.height, default.width), **inputs)
    assert counter.get_total_flops() / 1e9 == pytest.approx(default.gflop, abs=0.06)
