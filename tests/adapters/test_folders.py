"""Folders of all kinds of models: pixels, precision, missing and unsupported content, code that is never run."""

import json
import shutil
from pathlib import Path
from typing import Any

import families
import mask_families
import phrases
import pytest
import torch
from families import changed, images
from here import Detr
from PIL import Image
from transformers import AutoProcessor

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.preprocessing import prepare
from detrcli.errors import WeightsError
from detrcli.inference.detector import Detector

ALL = [*families.NAMES, *phrases.NAMES, *mask_families.NAMES]
CLASSES = {
    name: f"evil.{name}"
    for name in (
        "AutoConfig", "AutoModelForObjectDetection", "AutoModelForZeroShotObjectDetection", "AutoImageProcessor",
        "AutoModelForUniversalSegmentation", "AutoProcessor",
    )
}  # fmt: skip


@pytest.mark.parametrize("name", ALL, indirect=True)
def test_pixels(name: str, folder: Path, checkpoint: Checkpoint) -> None:
    if phrases.are_taken_by(name):
        processor = AutoProcessor.from_pretrained(folder).image_processor
    else:
        processor = (mask_families if name.startswith("mask") else families).processor_of(name)
    side = phrases.SIDE
    extreme = [Image.new("RGB", size, "red") for size in ((33, 100), (301, 64), (3 * side, side - 1))]
    for image in (*images(), *extreme):
        expected = processor(images=image, return_tensors="pt")["pixel_values"][0]
        assert torch.equal(prepare(image, checkpoint.preprocessing), expected), image.size


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *((name, {}) for name in ("conditional", "yolos", "table")),
        ("mask2former", {"size_divisor": 0}),
        ("mask2former", {"size_divisor": 20}),
        ("mask2former", {"size": {"height": 70, "width": 50}}),
        ("mask2former", {"size": {"max_height": 80, "max_width": 90}, "size_divisor": 0}),
    ],
    indirect=["name"],
)
def test_sizes(name: str, changes: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    """Sides are rounded as in transformers, at many aspect ratios."""
    shutil.copytree(folder, tmp_path / "other")
    processor = (mask_families.processor_of if changes else families.processor_of)(name, **changes)
    processor.save_pretrained(tmp_path / "other")
    checkpoint = load_checkpoint(str(tmp_path / "other"))
    for height in (37, 64, 90, 96, 97, 150, 151, 223):
        for width in (36, 45, 96, 99, 150, 181, 301):
            image = Image.new("RGB", (width, height))
            expected = processor(images=image, return_tensors="pt")["pixel_values"].shape[2:]
            assert prepare(image, checkpoint.preprocessing).shape[1:] == expected, (height, width)


@pytest.mark.parametrize("name", ALL, indirect=True)
def test_half_precision(name: str, folder: Path, image: Path, detr: Detr) -> None:
    """Networks of transformers mix tensors of both precisions, which autocast handles."""
    call = ("predict", image, "--weights", folder, "--threshold", 0, "--no-images", "--json", "--device", "cpu")
    text = ("--text", phrases.TEXT) if phrases.are_taken_by(name) else ()
    best = []
    for options in ((), ("--precision", "bf16")):
        shown = detr(*call, *text, *options).ok()
        best.append(max(detection["score"] for detection in shown.json["images"][0]["detections"]))
    assert best[0] == pytest.approx(best[1], abs=0.1 if name.startswith("mask") else 0.05)


CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"


@pytest.mark.parametrize(
    ("name", "file", "facts", "reason"),
    [
        ("conditional", CONFIG, {"model_type": "oneformer"}, "'oneformer'.* detr, deformable_detr, .*yolos"),
        ("conditional", CONFIG, {"architectures": ["ConditionalDetrForSegmentation"]}, "masks"),
        ("conditional", CONFIG, {"quantization_config": {"bits": 8}}, "quantized"),
        ("conditional", CONFIG, {"use_focal_loss": False}, "use_focal_loss"),
        ("conditional", CONFIG, {"d_model": 48}, "do not fit|does not load"),
        ("conditional", CONFIG, {"d_model": "wide"}, "does not load|invalid"),
        ("conditional", PROCESSOR, {"do_resize": False}, "not resized"),
        ("conditional", PROCESSOR, {"rescale_factor": 1.0}, "rescale_factor"),
        ("conditional", PROCESSOR, {"resample": 1}, "filter is 1"),
        ("conditional", PROCESSOR, {"pad_size": {"height": 200, "width": 200}}, "padded or cropped"),
        ("mask2former", CONFIG, {"model_type": "oneformer"}, "'oneformer'.*mask2former, maskformer"),
        ("mask2former", CONFIG, {"quantization_config": {"bits": 8}}, "quantized"),
        ("mask2former", CONFIG, {"num_queries": 3}, "do not fit|does not load"),
        ("mask2former", CONFIG, {"encoder_layers": 2_000_000}, "encoder_layers = 2000000"),
        ("mask2former", PROCESSOR, {"pad_size": {"height": 200, "width": 200}}, "padded or cropped"),
        ("mask2former", PROCESSOR, {"size": {"shortest_edge": 60}}, "is not supported|does not load"),
        ("mask2former", PROCESSOR, {"size": {"max_height": 60, "max_width": 60}}, "'max_height': 60"),
        ("owlv2", CONFIG, {"text_config.vocab_size": 100}, "do not belong together"),
        ("owlv2", CONFIG, {"vision_config.hidden_size": 48}, "does not load|do not fit"),
        ("owlv2", "processor_config.json", {"image_processor.do_pad": False}, "padded to a square"),
        ("owlv2", "tokenizer.json", {"model": "none"}, "does not load"),
    ],
    indirect=["name"],
)
def test_unsupported_folders(
    name: str, folder: Path, file: str, facts: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    text = phrases.PHRASES if phrases.are_taken_by(name) else None
    with pytest.raises(WeightsError, match=reason):
        load_checkpoint(changed(folder, tmp_path / "changed", file, **facts), phrases=text)


@pytest.mark.parametrize(
    ("name", "rule", "side"),
    [("rt", "exact-size", 640), ("conditional", "bounded-edges", 800), ("maskformer", "raised-edges", 800)],
    indirect=["name"],
)
def test_a_folder_without_a_processor(folder: Path, rule: str, side: int, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "bare")
    (tmp_path / "bare" / PROCESSOR).unlink()
    resize = load_checkpoint(str(tmp_path / "bare")).preprocessing.resize
    assert (resize.kind, resize.side) == (rule, side)
    assert rule != "raised-edges" or resize.place(480, 640).width % 32 == 0


@pytest.mark.parametrize(
    "name", ["conditional", "yolos", "grounding", "owlv2", "mask2former", "maskformer"], indirect=True
)
def test_code_in_a_folder(name: str, folder: Path, tmp_path: Path) -> None:
    """The folder is read by its `model_type`, and a type that only its code defines is refused."""
    place, marker = tmp_path / "evil", tmp_path / "ran"
    shutil.copytree(folder, place)
    for path in place.glob("*config.json"):
        own = {**CLASSES, "AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}
        facts = {**json.loads(path.read_text()), "auto_map": own}
        path.write_text(json.dumps({**facts, "tokenizer_class": "EvilTokenizer"} if "token" in path.name else facts))
    (place / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()")
    text = ["a star"] if phrases.are_taken_by(name) else None
    assert Detector(load_checkpoint(str(place), phrases=text), "cpu").predict(next(images()), threshold=0.0)
    facts = json.loads((place / CONFIG).read_text())
    (place / CONFIG).write_text(json.dumps({**facts, "model_type": "mine"}))
    with pytest.raises(WeightsError, match="'mine'"):
        load_checkpoint(str(place))
    assert not marker.exists()
