"""Image processors: their pixels follow from the class that a folder names, whatever the family is."""

import json
from pathlib import Path
from typing import Any

import families
import pytest
import torch
import transformers
from families import changed, images
from PIL import Image
from transformers import AutoImageProcessor

from detrcli.architectures.adapters.families import FAMILIES, MASK_FAMILIES, OPEN_VOCABULARY
from detrcli.architectures.adapters.processors import PROCESSORS, load_processor, preprocessing_of
from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.preprocessing import prepare
from detrcli.errors import WeightsError

EXACT: dict[str, Any] = {"size": {"height": 84, "width": 71}}
EDGES: dict[str, Any] = {"size": {"shortest_edge": 61, "longest_edge": 97}}
INSIDE: dict[str, Any] = {"size": {"max_height": 90, "max_width": 77}}
LIKE_DETR = [name for name in PROCESSORS if not name.startswith("Owl")]
FEW = ["DetrImageProcessor", "RfDetrImageProcessor", "YolosImageProcessor", "Mask2FormerImageProcessor"]
CASES = [
    *((name, EXACT) for name in PROCESSORS),
    *((name, EDGES) for name in LIKE_DETR),
    *((name, {**INSIDE, "size_divisor": 0}) for name in FEW),
    *((name, {**EXACT, "do_normalize": False}) for name in PROCESSORS),
    *((name, {**EXACT, "resample": 3, "size_divisor": 8}) for name in PROCESSORS),
    *((name, {**EDGES, "resample": 0}) for name in FEW),
    ("EomtImageProcessor", {"size": {"shortest_edge": 70, "longest_edge": 70}, "do_pad": True}),
    ("EomtImageProcessor", {**EDGES, "do_pad": True}),
]


def check_pixels(processor: Any, source: str) -> None:
    preprocessing = preprocessing_of(processor, source)
    odd = [Image.effect_noise(size, 80).convert("RGB") for size in ((33, 101), (207, 59), (1, 1), (7, 300))]
    for image in (*images(), *odd):
        if processor.size.get("shortest_edge") and max(image.size) > 30 * min(image.size):
            continue  # transformers itself fails where the shorter side becomes 0
        expected = processor(images=image, return_tensors="pt")["pixel_values"][0]
        assert torch.equal(prepare(image, preprocessing), expected), (source, image.size)


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_pixels(name: str, settings: dict[str, Any]) -> None:
    check_pixels(getattr(transformers, name)(**settings), name)


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_folder_of_any_family_with_any_processor(name: str, tmp_path: Path) -> None:
    getattr(transformers, name)(**EXACT).save_pretrained(tmp_path)
    theirs = AutoImageProcessor.from_pretrained(tmp_path)
    for family in (*FAMILIES.values(), *OPEN_VOCABULARY.values(), *MASK_FAMILIES.values()):
        processor = load_processor(tmp_path, family, None, "folder")
        assert type(processor) is type(theirs)
        assert preprocessing_of(processor, "folder") == preprocessing_of(theirs, "folder")


def test_an_rf_detr_with_the_processor_of_deformable_detr(tmp_path: Path) -> None:
    size = {"height": families.SIDE, "width": families.SIDE}
    facts = {"image_processor_type": "DeformableDetrImageProcessor", "size": size}
    place = changed(families.folder_of("rf"), tmp_path / "other", "preprocessor_config.json", **facts)
    before, after = (load_checkpoint(str(path)).preprocessing for path in (families.folder_of("rf"), place))
    image = Image.effect_noise((301, 187), 80).convert("RGB")
    expected = AutoImageProcessor.from_pretrained(place)(images=image, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(prepare(image, after), expected)
    assert (prepare(image, before) - expected).abs().max() > 0.3


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"image_processor_type": "YolosImageProcessorFast"}, "YolosImageProcessor"),
        ({"image_processor_type": "YolosImageProcessorPil"}, "YolosImageProcessor"),
        ({"image_processor_type": "DetrFeatureExtractor"}, "DetrImageProcessor"),
        ({"feature_extractor_type": "DetrFeatureExtractor"}, "DetrImageProcessor"),
        ({}, "RfDetrImageProcessor"),
    ],
)
def test_names_of_classes(facts: dict[str, str], expected: str, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**EXACT, **facts}))
    processor = load_processor(tmp_path, FAMILIES["rf_detr"], None, "folder")
    assert type(processor).__name__ == expected
    if facts.get("image_processor_type") != "DetrFeatureExtractor":  # which transformers 5 does not find
        named = facts or {"image_processor_type": expected}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({**EXACT, **named}))
        assert type(processor) is type(AutoImageProcessor.from_pretrained(tmp_path))


@pytest.mark.parametrize("name", ["MyImageProcessor", "ViTImageProcessor", "SegformerFeatureExtractor"])
def test_an_unknown_class(name: str, tmp_path: Path) -> None:
    place = changed(families.folder_of("rt"), tmp_path / "a", "preprocessor_config.json", image_processor_type=name)
    with pytest.raises(WeightsError, match=f"prepared by {name}.*\n.*RTDetrImageProcessor"):
        load_checkpoint(place)
