"""DETR with its mask head as transformers saves it and has it in memory, against transformers' own predictions."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_rules import tensor_by_name
from here import Detr
from PIL import Image
from safetensors.torch import load_file, save_file
from test_hugging_face import KINDS, SMALL

from detrcli.architectures.mask_heads import CONVOLUTIONAL
from detrcli.checkpoints.coco import PANOPTIC_NAMES
from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.batching import collate
from detrcli.errors import WeightsError

transformers = pytest.importorskip("transformers")

NAMED = {i: f"LABEL_{i}" if name == "N/A" else name for i, name in enumerate(PANOPTIC_NAMES)}


@pytest.fixture(scope="module", params=["timm", pytest.param("own", marks=pytest.mark.slow)])
def model(request: pytest.FixtureRequest) -> Any:
    kind = dict(KINDS[request.param])
    if request.param == "own":
        kind["backbone_config"] = transformers.ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
    named = {"id2label": NAMED, "label2id": {name: i for i, name in NAMED.items()}}
    config = transformers.DetrConfig(**{**SMALL, **named, "d_model": 64, "encoder_attention_heads": 8,
                                        "decoder_attention_heads": 8}, **kind)  # fmt: skip
    model = transformers.DetrForSegmentation(config).eval()
    gains = {"out_proj": 6.0, "mask_head": 2.0}
    # Every tensor has different values, so that an exchange of two is noticed.
    model.load_state_dict(
        {
            name: tensor_by_name(name.replace("backbone.model", "backbone"), list(value.shape), gains)
            if value.is_floating_point()
            else value
            for name, value in model.state_dict().items()
        }
    )
    return model


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf-masks")
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"shortest_edge": 64, "longest_edge": 96}}))
    return folder


@torch.no_grad()
def agrees(folder: Path, theirs: Any) -> None:
    """On two images, each alone and both padded to a size."""
    checkpoint = load_checkpoint(str(folder))
    assert checkpoint.architecture is CONVOLUTIONAL
    ours = checkpoint.model()
    g = torch.Generator().manual_seed(0)
    first, second = torch.randn(3, 96, 128, generator=g), torch.randn(3, 64, 80, generator=g)
    queries = checkpoint.config.queries
    for given in ([first], [second], [first, second]):
        batch = collate(given)
        mask = None if batch.padding is None else (~batch.padding).long()
        answer = theirs(batch.images, pixel_mask=mask)
        found = ours(batch).last
        assert found.masks is not None
        images = torch.arange(len(given)).repeat_interleave(queries)
        masks = found.masks(images, torch.arange(queries).repeat(len(given)))
        assert answer.pred_masks.std() > 0.1
        torch.testing.assert_close(found.logits, answer.logits, rtol=0, atol=1e-4)
        torch.testing.assert_close(found.boxes, answer.pred_boxes, rtol=0, atol=1e-4)
        torch.testing.assert_close(masks, answer.pred_masks.flatten(0, 1), rtol=1e-5, atol=1e-4)


def test_predicts_as_transformers_does(model: Any, folder: Path) -> None:
    agrees(folder, model)


def test_names_in_memory(model: Any, folder: Path, tmp_path: Path) -> None:
    """Saved from `model.state_dict()`, whose names differ from those that save_pretrained writes."""
    in_memory = {name: value.contiguous() for name, value in model.state_dict().items()}
    on_disk = load_file(folder / "model.safetensors").keys()
    assert "mask_head.conv1.conv.weight" in in_memory.keys() - on_disk
    save_file(in_memory, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    agrees(tmp_path, model)


def test_classes(folder: Path) -> None:
    """COCO's names tell which are stuff."""
    classes = load_checkpoint(str(folder)).classes
    assert classes.names.tolist() == list(NAMED.values())
    assert classes.things is not None
    stuff = set(classes.names[~classes.things]) - {name for name in NAMED.values() if name.startswith("LABEL")}
    assert len(stuff) == 53
    assert {"banner", "sky-other-merged"} <= stuff


def test_commands_take_it(folder: Path, detr: Detr, tmp_path: Path) -> None:
    Image.linear_gradient("L").resize((96, 64)).convert("RGB").save(tmp_path / "a.png")
    options = ("a.png", "--weights", folder, "--no-images")
    shown = detr("predict", *options, "--threshold", 0, "--json")
    assert shown.code == 0, shown.err
    assert all("mask" in detection for detection in shown.json["images"][0]["detections"])
    assert detr("predict", *options, "--format", "panoptic", "--out", "maps").code == 0
    semantic = detr("predict", *options, "--format", "semantic", "--out", "classes")
    assert semantic.code == 2
    assert "panoptic maps" in semantic.err
    looked = detr("visualize-attn", "a.png", "--weights", folder, "--query", 3, "--out", "a.jpg")
    assert looked.code == 0, looked.err


def test_an_incomplete_mask_head(folder: Path, tmp_path: Path) -> None:
    whole = load_file(folder / "model.safetensors")
    tensors = {name: tensor for name, tensor in whole.items() if "out_lay" not in name}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(WeightsError, match=r"2 missing: mask_head.last.bias"):
        load_checkpoint(str(tmp_path)).model()
