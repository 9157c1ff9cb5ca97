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
from here import Detr
from originals import HGNET, MODELS, R50, RESNET, original_names, randomize, rt_detr
from torch import Tensor, nn

from detrcli.architectures.adapters.originals.rf_detr import class_names
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.coco import NAMED, NAMES
from detrcli.checkpoints.load import load_checkpoint
from detrcli.errors import WeightsError
from detrcli.resize import ExactSize
from detrcli.structures import Batch

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the package rfdetr
QUICK = {"rtdetr_r18vd.pth", "dfine_n_coco.pth", "LWDETR_tiny.pth"}


def network_of(model_type: str, facts: Mapping[str, Any]) -> Any:
    config = transformers.AutoConfig.for_model(model_type, **facts)
    return randomize(transformers.AutoModelForObjectDetection.from_config(config))


def saved(path: Path, content: object) -> str:
    torch.save(content, path)
    return str(path)


def zeros(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}


@torch.no_grad()
def check_equal(checkpoint: Checkpoint, network: nn.Module, side: int = 320) -> None:
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    ours, theirs = checkpoint.model()(Batch(images, None)).last, network(images)
    assert theirs.logits.std() > 1e-3
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.boxes, theirs.pred_boxes, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "file", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_a_checkpoint_equals_the_model_of_transformers(file: str, tmp_path: Path) -> None:
    """Averaged weights are preferred, as in the repositories' tools."""
    model_type, facts, rules = MODELS[file]
    network = network_of(model_type, facts)
    tensors = original_names(network, rules)
    averaged = {"ema_model": tensors} if model_type == "lw_detr" else {"ema": {"module": tensors, "updates": 3}}
    content = {"model": zeros(tensors), **averaged, "last_epoch": 71}
    checkpoint = load_checkpoint(saved(tmp_path / file, content))
    check_equal(checkpoint, network, 640 if model_type == "lw_detr" else 320)
    assert checkpoint.classes.names.tolist() == (NAMES if model_type == "lw_detr" else NAMED)
    assert checkpoint.preprocessing.resize == ExactSize(640, 640)


@pytest.mark.slow
def test_an_rt_detr_that_is_evaluated_after_its_third_layer(tmp_path: Path) -> None:
    """The repositories evaluate `r50vd_m` there; transformers would compute all six layers."""
    trained = network_of("rt_detr", rt_detr(R50, hidden_expansion=0.5))
    tensors = original_names(trained, RESNET)
    evaluated = network_of("rt_detr", rt_detr(R50, hidden_expansion=0.5, decoder_layers=3))
    evaluated.load_state_dict(trained.state_dict(), strict=False)
    check_equal(load_checkpoint(saved(tmp_path / "rtdetr_r50vd_m.pth", {"model": tensors})), evaluated)


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
        ("backbone.0.encoder.base_model.model.weight", "LoRA"),
    ],
)
def test_unsupported_models_are_named(name: str, reason: str, tmp_path: Path) -> None:
    marks = ("decoder.decoder.lqe_layers.0.weight", "backbone.0.encoder.encoder.embeddings.cls_token")
    tensors = {key: torch.zeros(1) for key in (name, marks[0 if "decoder.decoder" in name else 1])}
    with pytest.raises(WeightsError, match=reason):
        load_checkpoint(saved(tmp_path / "model.pth", {"model": tensors}))


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


def rf_detr(package: Any, name: str, **settings: Any) -> Any:
    model = getattr(package, name)(pretrain_weights=None, device="cpu", **settings)
    randomize(model.model.model)
    return model


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("RFDETRNano", {"num_classes": 3, "resolution": 320, "num_queries": 50}),
        *(
            pytest.param(name, {}, marks=pytest.mark.slow)
            for name in ("RFDETRNano", "RFDETRSmall", "RFDETRMedium", "RFDETRBase", "RFDETRLarge")
        ),
    ],
)
@pytest.mark.parametrize("form", ["model", pytest.param("lightning", marks=pytest.mark.slow)])
def test_rf_detr_equals_its_package(
    package: Any, name: str, settings: dict[str, Any], form: str, tmp_path: Path
) -> None:
    theirs = rf_detr(package, name, **settings)
    tensors = theirs.model.model.state_dict()
    states = {
        "model": {"model": tensors, "ema_model": zeros(tensors)},
        "lightning": {"state_dict": {f"model._orig_mod.{key}": tensor for key, tensor in tensors.items()}},
    }[form]
    config = theirs.model_config.model_dump()
    checkpoint = load_checkpoint(
        saved(tmp_path / "checkpoint.pth", {**states, "args": {}, "model_name": name, "model_config": config})
    )
    side = theirs.model_config.resolution
    # In float64, in which tokens of nearly equal scores do not change places. Some constants stay float32.
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        ours, expected = checkpoint.model().double()(Batch(images, None)).last, theirs.model.model.double()(images)
    torch.testing.assert_close(ours.logits, expected["pred_logits"], rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.boxes, expected["pred_boxes"], rtol=0, atol=1e-6)
    assert checkpoint.preprocessing.resize == ExactSize(side, side)


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
        ({"class_names": NAMED}, 91, {}),  # COCO's, by category id
        (None, 3, {}),
    ],
)  # fmt: skip
def test_class_names_of_rf_detr(args: object, rows: int, names: dict[int, str]) -> None:
    assert class_names(args, rows) == names
