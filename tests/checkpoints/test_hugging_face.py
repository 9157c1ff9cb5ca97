"""DETR with and without its mask head, as transformers saves it and has it in memory."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_rules import GOLDEN, tensor_by_name
from safetensors.torch import load_file, save_file

from detrcli.architectures import detr, mask_heads
from detrcli.architectures.detr import DETRConfig, HuggingFaceDETR
from detrcli.checkpoints.coco import PANOPTIC_NAMES
from detrcli.checkpoints.load import load_checkpoint
from detrcli.config import Preprocessing
from detrcli.data.preprocessing import collate
from detrcli.errors import WeightsError
from detrcli.resize import ShortestEdge

transformers = pytest.importorskip("transformers")

CONFIG, PREPROCESSOR, TENSORS = "config.json", "preprocessor_config.json", "model.safetensors"
SMALL = {
    "encoder_layers": 2, "decoder_layers": 2, "d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_queries": 7,
    "id2label": {0: "N/A", 1: "cat", 2: "dog"}, "label2id": {"N/A": 0, "cat": 1, "dog": 2},
}  # fmt: skip
NAMED = {i: f"LABEL_{i}" if name == "N/A" else name for i, name in enumerate(PANOPTIC_NAMES)}
MASKS = {
    **SMALL, "d_model": 64, "encoder_attention_heads": 8, "decoder_attention_heads": 8,
    "id2label": NAMED, "label2id": {name: i for i, name in NAMED.items()},
}  # fmt: skip
TIMM = {"backbone": "resnet50", "use_timm_backbone": True, "use_pretrained_backbone": False}
OWN = {"use_timm_backbone": False, "position_embedding_type": "learned"}
MODELS: dict[str, dict[str, Any]] = {
    "timm": {**SMALL, **TIMM},
    "timm-dc5": {**SMALL, **TIMM, "dilation": True},
    "own": {**SMALL, **OWN, "backbone_config": ["stage4"]},
    "masks": {**MASKS, **TIMM},
    "masks-own": {**MASKS, **OWN, "backbone_config": ["stage1", "stage2", "stage3", "stage4"]},
}


def model_of(name: str) -> Any:
    config = dict(MODELS[name])
    if "backbone_config" in config:
        config["backbone_config"] = transformers.ResNetConfig(out_features=config["backbone_config"])
    task = transformers.DetrForSegmentation if "masks" in name else transformers.DetrForObjectDetection
    model = task(transformers.DetrConfig(**config)).eval()
    gains = {"out_proj": 6.0, **({"mask_head": 2.0} if "masks" in name else {})}
    # Every tensor has different values, so that an exchange of two is noticed.
    values = {
        key: tensor_by_name(key.replace("backbone.model", "backbone"), list(value.shape), gains)
        if value.is_floating_point()
        else value
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(values)
    return model


def folder_of(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    size = {"shortest_edge": 64, "longest_edge": 96}
    facts = {"size": size, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (folder / PREPROCESSOR).write_text(json.dumps(facts))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(model_of("timm"), tmp_path_factory.mktemp("hf"))


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(model_of("masks"), tmp_path_factory.mktemp("hf-masks"))


@torch.no_grad()
def agrees(folder: Path, theirs: Any) -> None:
    """On two images, each alone and both padded to a size."""
    checkpoint = load_checkpoint(str(folder))
    ours, queries = checkpoint.model(), checkpoint.config.queries
    g = torch.Generator().manual_seed(0)
    first, second = torch.randn(3, 96, 128, generator=g), torch.randn(3, 64, 80, generator=g)
    for images in ([first], [second], [first, second]):
        batch = collate(images)
        mask = None if batch.padding is None else (~batch.padding).long()
        expected, last = theirs(batch.images, pixel_mask=mask), ours(batch).last
        assert expected.logits.std() > 0.1
        torch.testing.assert_close(last.logits, expected.logits, rtol=0, atol=1e-4)
        torch.testing.assert_close(last.boxes, expected.pred_boxes, rtol=0, atol=1e-4)
        assert (last.masks is not None) == hasattr(expected, "pred_masks")
        if last.masks is not None:
            of = torch.arange(len(images)).repeat_interleave(queries)
            own = last.masks(of, torch.arange(queries).repeat(len(images)))
            assert expected.pred_masks.std() > 0.1
            torch.testing.assert_close(own, expected.pred_masks.flatten(0, 1), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "masks-own" else ()) for name in MODELS]
)
def test_predictions(name: str, tmp_path: Path) -> None:
    """From the folder, and from `model.state_dict()`, whose names differ from those that save_pretrained writes."""
    model = model_of(name)
    folder = folder_of(model, tmp_path)
    expected = mask_heads.CONVOLUTIONAL if "masks" in name else detr.ARCHITECTURE
    assert load_checkpoint(str(folder)).architecture is expected
    agrees(folder, model)
    in_memory = {key: value.contiguous() for key, value in model.state_dict().items()}
    assert in_memory.keys() != load_file(folder / TENSORS).keys()
    save_file(in_memory, folder / TENSORS)
    agrees(folder, model)


@pytest.mark.parametrize("kind", ["timm", "own"])
def test_names_of_transformers_4(kind: str) -> None:
    """In files of transformers 4.57.1 with one layer each; "own" with learned positions."""
    theirs = json.loads((GOLDEN / "transformers-4-names.json").read_text())[kind]
    names = HuggingFaceDETR(DETRConfig).rename({name: torch.zeros(1) for name in theirs}).keys()
    position = "learned" if kind == "own" else "sine"
    config = DETRConfig(encoder_layers=1, decoder_layers=1, dim=32, heads=4, position=position)
    assert names == detr.ARCHITECTURE.unfilled(config).state_dict().keys()


def test_classes_and_preprocessing(folder: Path) -> None:
    checkpoint = load_checkpoint(str(folder))
    assert checkpoint.classes.ids.tolist() == [0, 1, 2]
    assert checkpoint.classes.names.tolist() == ["N/A", "cat", "dog"]
    assert checkpoint.preprocessing == Preprocessing(ShortestEdge(64, 96), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def test_stuff_is_recognized_by_cocos_names(masks: Path) -> None:
    classes = load_checkpoint(str(masks)).classes
    assert classes.names.tolist() == list(NAMED.values())
    stuff = set(classes.names[~classes.things]) - {name for name in NAMED.values() if name.startswith("LABEL")}
    assert len(stuff) == 53
    assert {"banner", "sky-other-merged"} <= stuff


def changed(folder: Path, file: str, **facts: Any) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def without_a_column(folder: Path) -> None:
    tensors = load_file(folder / TENSORS)
    narrow = {name: tensor[..., :-1].contiguous() for name, tensor in tensors.items() if "k_proj.weight" in name}
    save_file(tensors | narrow, folder / TENSORS)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: (f / CONFIG).write_text('{"model_type": "clip"}'), "'clip'.* detr, "),
        (lambda f: (f / TENSORS).unlink(), TENSORS),
        (lambda f: (f / TENSORS).write_bytes(b"x"), TENSORS),
        (lambda f: changed(f, PREPROCESSOR, size={"height": 9}), "shortest edge"),
        (lambda f: changed(f, PREPROCESSOR, size=None), "invalid content"),
        (lambda f: changed(f, PREPROCESSOR, image_mean=3), "invalid content"),
        (lambda f: changed(f, PREPROCESSOR, image_std=[1, 0, 1]), "deviation of 0"),
        (lambda f: changed(f, PREPROCESSOR, do_resize=False), "not resized"),
        (lambda f: changed(f, PREPROCESSOR, do_rescale=False), "not rescaled"),
        (lambda f: changed(f, CONFIG, activation_function="gelu"), "'gelu'"),
        (lambda f: changed(f, CONFIG, encoder_attention_heads=5, decoder_attention_heads=5), "of the 5 heads"),
        (lambda f: changed(f, CONFIG, decoder_attention_heads=2), "attention heads"),
        (lambda f: changed(f, CONFIG, id2label=["a"]), "invalid content"),
        (lambda f: changed(f, CONFIG, id2label={"1": "x" * 2_000_000}), "has 2,000,000 characters"),
        (lambda f: changed(f, CONFIG, dropout=None), "dropout = None"),
        (lambda f: changed(f, CONFIG, dropout="x"), "dropout = 'x'"),
        (lambda f: changed(f, CONFIG, dropout=float("nan")), "dropout = nan"),
        (lambda f: changed(f, PREPROCESSOR, size={"shortest_edge": float("inf")}), "invalid content"),
        (lambda f: (f / PREPROCESSOR).write_text("[" * 100_000), PREPROCESSOR),
        (without_a_column, "do not fit the model.* left over: .*k_proj"),
    ],
)
def test_invalid_folders(folder: Path, tmp_path: Path, change: Any, reason: str) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    change(tmp_path)
    with pytest.raises(WeightsError, match=reason):
        load_checkpoint(str(tmp_path)).model()


def test_older_formats(folder: Path, tmp_path: Path) -> None:
    """A size as a number, no normalization, dilation as a stride of the backbone."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    changed(tmp_path, PREPROCESSOR, size=70, max_size=99, do_normalize=False)
    changed(tmp_path, CONFIG, dilation=False, backbone_config={"output_stride": 16})
    checkpoint = load_checkpoint(str(tmp_path))
    assert checkpoint.preprocessing.resize == ShortestEdge(70, 99)
    assert (checkpoint.preprocessing.mean, checkpoint.preprocessing.std) == ((0, 0, 0), (1, 1, 1))
    assert checkpoint.config.dilated
