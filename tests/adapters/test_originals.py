"""Checkpoints of the repositories that published the families, beside models of transformers with the same tensors.

The names and configs are those of the repositories' files, written by helpers in the other direction.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from here import Detr
from originals import (
    HGNET,
    MODELS,
    check_equal,
    original_names,
    photo,
    randomize,
    saved,
    zeros,
)  # fmt: skip
from torch import nn

from detrcli.checkpoints import coco
from detrcli.checkpoints.load import load_checkpoint
from detrcli.errors import WeightsError
from detrcli.resize import ExactSize

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the package rfdetr
QUICK = ("rtdetr_r18vd.pth", "dfine_n_coco.pth", "LWDETR_tiny.pth")


def network_of(model_type: str, facts: Mapping[str, Any]) -> Any:
    config = transformers.AutoConfig.for_model(model_type, **facts)
    return randomize(transformers.AutoModelForObjectDetection.from_config(config))


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
def test_unsupported_models_are_named(name: str, reason: str, tmp_path: Path, detr: Detr) -> None:
    """Beside the tensors by which their repositories are recognized. An adapter renames those of the encoder."""
    marks = ("decoder.decoder.lqe_layers.0.weight", "backbone.0.encoder.encoder.embeddings.cls_token")
    keys = (name,) if "base_model" in name else (name, marks[0 if "decoder.decoder" in name else 1])
    file = saved(tmp_path / "model.pth", {"model": {key: torch.zeros(1) for key in keys}})
    detr("predict", photo(tmp_path / "photo.png"), "--weights", file).fails(4, file, reason)


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
