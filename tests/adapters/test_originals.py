"""Checkpoints of the repositories that published the families, beside models of transformers with the same tensors.

The names and configs are those of the repositories' files, written by helpers in the other direction.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from here import Detr, all_detections
from originals import (
    HGNET,
    MODELS,
    NAMES,
    RF_DETR,
    check_detections,
    original_names,
    photo,
    randomize,
    rf_detr,
    rf_detr_files,
    saved,
    zeros,
)  # fmt: skip
from PIL import Image
from torch import nn

from detrcli.architectures.adapters.originals.rf_detr import class_names
from detrcli.checkpoints import coco
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.load import load_checkpoint
from detrcli.errors import WeightsError
from detrcli.resize import ExactSize
from detrcli.structures import Batch

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the package rfdetr
QUICK = ("rtdetr_r18vd.pth", "dfine_n_coco.pth", "LWDETR_tiny.pth")


def network_of(model_type: str, facts: Mapping[str, Any]) -> Any:
    config = transformers.AutoConfig.for_model(model_type, **facts)
    return randomize(transformers.AutoModelForObjectDetection.from_config(config))


@torch.no_grad()
def check_equal(checkpoint: Checkpoint, network: nn.Module, side: int = 320) -> None:
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    ours, theirs = checkpoint.model()(Batch(images, None)).last, network(images)
    assert theirs.logits.std() > 1e-3
    if ours.masks is not None:
        queries = torch.arange(theirs.logits.shape[1])
        masks = ours.masks(torch.zeros_like(queries), queries)
        torch.testing.assert_close(masks, theirs.pred_masks[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.boxes, theirs.pred_boxes, rtol=0, atol=1e-6)


@pytest.mark.parametrize("file", QUICK)
def test_a_checkpoint_equals_the_model_of_transformers(file: str, tmp_path: Path) -> None:
    """Averaged weights are preferred, as in the repositories' tools."""
    model_type, facts, rules = MODELS[file]
    network = network_of(model_type, facts)
    tensors = original_names(network, rules)
    averaged = {"ema_model": tensors} if model_type == "lw_detr" else {"ema": {"module": tensors, "updates": 3}}
    content = {"model": zeros(tensors), **averaged, "last_epoch": 71}
    checkpoint = load_checkpoint(saved(tmp_path / file, content))
    check_equal(checkpoint, network, 640 if model_type == "lw_detr" else 320)
    assert checkpoint.classes.names.tolist() == (coco.NAMES if model_type == "lw_detr" else coco.NAMED)
    assert checkpoint.preprocessing.resize == ExactSize(640, 640)


def test_convert_writes_a_folder_for_transformers(detr: Detr, tmp_path: Path) -> None:
    model_type, facts, rules = MODELS["dfine_n_coco.pth"]
    network = network_of(model_type, facts)
    content = {"model": original_names(network, rules)}
    file, deim = saved(tmp_path / "dfine_n_coco.pth", content), saved(tmp_path / "deim_n.pth", content)
    detr("convert", file, "folder").ok()
    loaded = transformers.AutoModelForObjectDetection.from_pretrained(tmp_path / "folder").eval()
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "folder")
    assert dict(processor.size) == {"height": 640, "width": 640}
    assert loaded.config.id2label[0] == "person"
    check_equal(load_checkpoint(str(tmp_path / "folder")), loaded)
    check_equal(load_checkpoint(file), loaded)
    detr("convert", deim, "other").fails(2, "SiLU")
    detr("convert", "shapes", "other").fails(2, "shapes")
    assert not (tmp_path / "other").exists()


def test_a_deim_uses_silu_where_d_fine_has_relu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, facts, _ = MODELS["dfine_n_coco.pth"]
    network = network_of("d_fine", {**facts, "decoder_activation_function": "silu"})
    checkpoint = load_checkpoint(saved(tmp_path / "deim_hgnetv2_n.pth", {"model": original_names(network, HGNET)}))
    for module in network.modules():
        if type(module).__name__ == "DFineMLP" and isinstance(module.act, nn.ReLU):
            module.act = nn.SiLU()
        if type(module).__name__ == "DFineMLPPredictionHead":
            module.forward = nn.Sequential(*(part for layer in module.layers for part in (layer, nn.SiLU())))[
                :-1
            ].forward
    check_equal(checkpoint, network)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("decoder.decoder.layers.0.swish_ffn.w12.weight", "DEIMv2"),
        ("backbone.0.projector.stages_sampling.0.0.0.weight", "large of 2025"),
        ("keypoint_embed.layers.0.weight", "key points"),
        ("backbone.0.encoder.base_model.model.encoder.layer.0.weight", "DoRA"),
    ],
)
def test_unsupported_models_are_named(name: str, reason: str, tmp_path: Path) -> None:
    marks = ("decoder.decoder.lqe_layers.0.weight", "backbone.0.encoder.encoder.embeddings.cls_token")
    tensors = {key: torch.zeros(1) for key in (name, marks[0 if "decoder.decoder" in name else 1])}
    with pytest.raises(WeightsError, match=reason):
        load_checkpoint(saved(tmp_path / "model.pth", {"model": tensors}))


def test_a_deimv2_in_the_format_of_its_repository(tmp_path: Path, detr: Detr) -> None:
    (tmp_path / "config.json").write_text('{"DEIMTransformer": {}, "HybridEncoder": {}}')
    detr("predict", photo(tmp_path / "photo.png"), "--weights", tmp_path).fails(4, "DEIMv2", "SiLU")


@pytest.mark.parametrize(
    "change",
    [
        {"class_embed.weight": torch.zeros(3)},  # of another rank
        {"transformer.decoder.layers.0.linear1.weight": torch.zeros(())},
        {"model_config": {"resolution": "large"}},
        {"model_config": {"out_feature_indexes": 7}},
        {"args": {"class_names": {"first": "cat"}}},
    ],
)
def test_invalid_contents(change: dict[str, Any], tmp_path: Path) -> None:
    encoder, decoder = "backbone.0.encoder.encoder.", "transformer.decoder.layers.0."
    shapes = {
        "class_embed.weight": (3, 256), "refpoint_embed.weight": (300, 4),
        f"{encoder}embeddings.cls_token": (1, 1, 384),
        f"{encoder}embeddings.patch_embeddings.projection.weight": (384, 3, 16, 16),
        f"{encoder}embeddings.position_embeddings": (1, 577, 384),
        f"{decoder}cross_attn.attention_weights.weight": (32, 256), f"{decoder}linear1.weight": (2048, 256),
    }  # fmt: skip
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    tensors |= {name: value for name, value in change.items() if name in tensors}
    others = {name: value for name, value in change.items() if name not in tensors}
    with pytest.raises(WeightsError, match="checkpoint.pth: "):
        load_checkpoint(saved(tmp_path / "checkpoint.pth", {"model": tensors, **others}))


def test_a_damaged_checkpoint(tmp_path: Path) -> None:
    network = network_of(*MODELS["dfine_n_coco.pth"][:2])
    tensors = original_names(network, HGNET)
    del tensors["decoder.decoder.layers.1.linear1.weight"]
    with pytest.raises(WeightsError, match=r"missing: model\.decoder\.layers\.1\.mlp\.layers\.0\.weight"):
        load_checkpoint(saved(tmp_path / "dfine.pth", {"model": tensors}))


@pytest.fixture(scope="module")
def package() -> Any:
    """The package `rfdetr`, where it is installed."""
    package = pytest.importorskip("rfdetr")
    from rfdetr.models.backbone import dinov2

    backbone: Any = dinov2.WindowedDinov2WithRegistersBackbone
    with pytest.MonkeyPatch.context() as patch:  # no download
        patch.setattr(backbone, "from_pretrained", classmethod(lambda cls, name, config: cls(config)))
        yield package


def package_model(package: Any, name: str, **settings: Any) -> Any:
    model = getattr(package, name)(pretrain_weights=None, device="cpu", **settings)
    randomize(model.model.model)
    return model


FILES = ("published", "1.0", "1.1 total", "1.2 bundle", "1.6", "1.7", "1.8", "1.11 ckpt")
SMALL = {"num_classes": 3, "num_queries": 50}
PUBLISHED = (
    ("RFDETRNano", "published"), ("RFDETRSmall", "1.0"), ("RFDETRMedium", "1.1 total"), ("RFDETRBase", "1.2 bundle"),
    ("RFDETRLarge", "1.6"), ("RFDETRSegPreview", "1.0"), ("RFDETRSegNano", "published"), ("RFDETRSegSmall", "1.6"),
    ("RFDETRSegMedium", "1.1 total"), ("RFDETRSegLarge", "1.7"), ("RFDETRSegXLarge", "1.8"),
    ("RFDETRSeg2XLarge", "published"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "settings", "version"),
    [
        ("RFDETRNano", {**SMALL, "resolution": 320}, "1.8"),
        ("RFDETRSegNano", {**SMALL, "resolution": 240}, "1.7"),
        pytest.param("RFDETRBase", {**SMALL, "resolution": 448}, "1.11 ckpt", marks=pytest.mark.slow),
        *(pytest.param(name, {}, version, marks=pytest.mark.slow) for name, version in PUBLISHED),
    ],
)
def test_rf_detr_detects_as_its_package(
    package: Any, name: str, settings: dict[str, Any], version: str, tmp_path: Path, detr: Detr
) -> None:
    """In `detr predict`, and in transformers after `detr convert`."""
    model = package_model(package, name, **settings)
    config = model.model_config.model_dump()
    config |= {"num_classes": len(NAMES)} if settings else {}
    content = rf_detr_files(model.model.model.state_dict(), config, name)[version]
    file, image = saved(tmp_path / "checkpoint.pth", content), photo(tmp_path / "photo.png")
    predicted = model.predict(str(image), threshold=0.0)
    theirs = predicted.xyxy, predicted.confidence, predicted.class_id, predicted.mask
    check_detections(all_detections(detr, image, file), theirs)

    detr("convert", file, "folder").ok()
    task = "InstanceSegmentation" if predicted.mask is not None else "ObjectDetection"
    network = getattr(transformers, f"AutoModelFor{task}").from_pretrained(tmp_path / "folder").eval()
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "folder")
    with Image.open(image) as opened, torch.no_grad():
        output = network(processor(images=opened, return_tensors="pt")["pixel_values"])
        options = {"threshold": 0.0, "top_k": len(predicted), "target_sizes": [opened.size[::-1]]}
        limits = opened.size * 2
    (found,) = processor.post_process_object_detection(output, **options)
    columns = found["boxes"].numpy().clip(0, limits), found["scores"], found["labels"]
    converted = [
        {"box": box.tolist(), "score": float(score), "category_id": int(label)}
        for box, score, label in zip(*columns, strict=True)
    ]
    check_detections(converted, (*theirs[:3], None))


def narrow_rf_detr(*, masks: bool, **facts: Any) -> Any:
    config = transformers.AutoConfig.for_model("rf_detr", **rf_detr(masks=masks, **facts))
    task = "InstanceSegmentation" if masks else "ObjectDetection"
    return randomize(getattr(transformers, f"AutoModelFor{task}").from_config(config))


@pytest.mark.slow
@pytest.mark.parametrize("masks", [False, True])
def test_training_from_a_file_of_rf_detr(masks: bool, data: Path, tmp_path: Path, detr: Detr) -> None:
    """It keeps classes by name, resumes, and is reported."""
    tensors = original_names(narrow_rf_detr(masks=masks, side=4, queries=10), RF_DETR)
    content = {"model": tensors, "args": {"class_names": ["square", "circle", "moon"]}}
    file = saved(tmp_path / "checkpoint_best_total.pth", content)
    command = ("train", data, "--weights", file, "--out", "run", "--epochs", 1, "--set", "workers=0")
    assert "kept by name: 2 (circle, square)" in detr(*command, "--batch-size", 6).ok().err
    assert ("mask_AP" in Path("run/metrics.csv").read_text()) == masks
    detr("train", "--resume", "run", "--epochs", 2).ok()
    detr("report", "run", "--out", "report").ok()


@pytest.mark.parametrize(
    ("version", "masks"),
    [
        pytest.param(version, masks, marks=pytest.mark.slow if masks == bool(number % 2) else ())
        for number, version in enumerate(FILES)
        for masks in (False, True)
    ],
)
def test_files_of_rf_detr(version: str, masks: bool, tmp_path: Path) -> None:
    """Of all versions of the package, with names as written by a helper in the other direction."""
    network = narrow_rf_detr(masks=masks)
    architecture = {
        "resolution": 192, "num_select": 40, "num_queries": 20, "dec_n_points": 2, "sa_nheads": 8, "num_windows": 2,
        "out_feature_indexes": [3, 6, 9, 12], "mask_downsample_ratio": 4,
    }  # fmt: skip
    files = rf_detr_files(original_names(network, RF_DETR), architecture, "RFDETRSegSmall" if masks else "RFDETRNano")
    checkpoint = load_checkpoint(saved(tmp_path / "checkpoint.pth", files[version]))
    check_equal(checkpoint, network, 192)
    told = version not in ("published", "1.6", "1.7")  # whether the file has the architecture
    side = 192 if told else 120 if masks else 160
    assert checkpoint.preprocessing.resize == ExactSize(side, side)
    by_name = {"published": 20, "1.6": 20, "1.7": 100}.get(version) if masks else 300
    assert checkpoint.scoring.num_pairs(20) == (40 if told else by_name)
    named = {
        "published": ["class 0", "class 1", "class 2", "class 3"], "1.0": ["class 0", "class 1", "class 2", "class 3"],
        "1.1 total": ["no object", *NAMES], "1.2 bundle": ["no object", *NAMES],
    }.get(version, [*NAMES, "no object"])  # fmt: skip
    assert checkpoint.classes.names.tolist() == named
    assert (checkpoint.segmentation is not None) == masks


@pytest.mark.parametrize(
    ("args", "rows", "names"),
    [
        ({"class_names": ["cat", "dog"]}, 3, {0: "cat", 1: "dog", 2: "no object"}),
        (
            argparse.Namespace(class_names=["cat", "dog"], dataset_file="roboflow"), 3,
            {0: "no object", 1: "cat", 2: "dog"},
        ),
        (SimpleNamespace(class_names={1: "cat", 2: "dog"}, dataset_file="coco"), 3, {1: "cat", 2: "dog"}),
        (argparse.Namespace(class_names=["a", "b"], dataset_file="yolo"), 2, {0: "a", 1: "b"}),
        ({"class_names": coco.NAMED}, 91, {}),  # COCO's, by category id
        (None, 3, {}),
    ],
)  # fmt: skip
def test_class_names_of_rf_detr(args: object, rows: int, names: dict[int, str]) -> None:
    assert class_names(args, rows) == names
