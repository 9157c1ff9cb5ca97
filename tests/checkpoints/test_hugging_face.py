"""DETR as transformers saves it and has it in memory, against transformers' own predictions."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_rules import GOLDEN, tensor_by_name
from safetensors.torch import load_file, save_file

from detrcli.architectures.detr import ARCHITECTURE, DETRConfig
from detrcli.architectures.detr_names import HuggingFaceDETR
from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.batching import collate
from detrcli.errors import WeightsError
from detrcli.resize import ShortestEdge

transformers = pytest.importorskip("transformers")

SMALL = {
    "encoder_layers": 2, "decoder_layers": 2, "d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_queries": 7,
    "id2label": {0: "N/A", 1: "cat", 2: "dog"}, "label2id": {"N/A": 0, "cat": 1, "dog": 2},
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "timm": {"backbone": "resnet50", "use_timm_backbone": True, "use_pretrained_backbone": False},
    "timm-dc5": {
        "backbone": "resnet50", "use_timm_backbone": True, "use_pretrained_backbone": False, "dilation": True,
    },
    "own": {"use_timm_backbone": False, "position_embedding_type": "learned"},
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> Any:
    kind = dict(KINDS[request.param])
    if request.param == "own":
        kind["backbone_config"] = transformers.ResNetConfig(out_features=["stage4"])
    model = transformers.DetrForObjectDetection(transformers.DetrConfig(**SMALL, **kind)).eval()
    # Every tensor has different values, so that an exchange of two is noticed.
    values = {
        name: tensor_by_name(name.replace("backbone.model", "backbone"), list(value.shape), {"out_proj": 6.0})
        if value.is_floating_point()
        else value
        for name, value in model.state_dict().items()
    }
    model.load_state_dict(values)
    return model


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf")
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "size": {"shortest_edge": 64, "longest_edge": 96},
                "image_mean": [0.5, 0.4, 0.3],
                "image_std": [0.2, 0.3, 0.4],
            }
        )
    )
    return folder


@torch.no_grad()
def agrees(ours: Path, theirs: Any) -> None:
    pixels = torch.randn(3, 96, 128, generator=torch.Generator().manual_seed(0))
    answer = theirs(pixels[None])
    prediction = load_checkpoint(str(ours)).model()(collate([pixels])).last
    assert answer.logits.std() > 0.1
    torch.testing.assert_close(prediction.logits, answer.logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(prediction.boxes, answer.pred_boxes, rtol=0, atol=1e-4)


def test_predicts_as_transformers_does(model: Any, folder: Path) -> None:
    agrees(folder, model)


def test_names_in_memory(model: Any, folder: Path, tmp_path: Path) -> None:
    """Saved from `model.state_dict()`, whose names differ from those that save_pretrained writes."""
    in_memory = {name: value.contiguous() for name, value in model.state_dict().items()}
    assert in_memory.keys() != load_file(folder / "model.safetensors").keys()
    save_file(in_memory, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    agrees(tmp_path, model)


@pytest.mark.parametrize("kind", ["timm", "own"])
def test_names_of_transformers_4(kind: str) -> None:
    """In files of transformers 4.57.1 with one layer each; "own" with learned positions."""
    theirs = json.loads((GOLDEN / "transformers-4-names.json").read_text())[kind]
    names = HuggingFaceDETR(DETRConfig).rename({name: torch.zeros(1) for name in theirs}).keys()
    config = DETRConfig(
        encoder_layers=1, decoder_layers=1, dim=32, heads=4, position="learned" if kind == "own" else "sine"
    )
    with torch.device("meta"):
        assert names == ARCHITECTURE.build(config).state_dict().keys()


def test_classes_and_preprocessing(folder: Path) -> None:
    checkpoint = load_checkpoint(str(folder))
    assert checkpoint.classes.ids.tolist() == [0, 1, 2]
    assert checkpoint.classes.names.tolist() == ["N/A", "cat", "dog"]
    assert checkpoint.preprocessing.resize == ShortestEdge(64, 96)
    assert checkpoint.preprocessing.mean == (0.5, 0.4, 0.3)
    assert checkpoint.preprocessing.std == (0.2, 0.3, 0.4)


def changed(folder: Path, file: str, **facts: Any) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: (f / CONFIG).write_text("{"), "config.json"),
        (lambda f: (f / CONFIG).write_text('{"model_type": "clip"}'), "'clip'.* detr, "),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x"), "model.safetensors"),
        (lambda f: changed(f, PREPROCESSOR, size={"height": 9}), "shortest edge"),
        (lambda f: changed(f, PREPROCESSOR, size=None), "invalid content"),
        (lambda f: changed(f, PREPROCESSOR, image_mean=3), "invalid content"),
        (lambda f: changed(f, PREPROCESSOR, image_std=[1, 0, 1]), "deviation of 0"),
        (lambda f: changed(f, PREPROCESSOR, do_resize=False), "not resized"),
        (lambda f: changed(f, CONFIG, activation_function="gelu"), "'gelu'"),
        (lambda f: changed(f, CONFIG, encoder_attention_heads=5, decoder_attention_heads=5), "5 attention heads"),
        (lambda f: changed(f, CONFIG, decoder_attention_heads=2), "attention heads"),
        (lambda f: changed(f, CONFIG, id2label=["a"]), "invalid content"),
        (lambda f: changed(f, CONFIG, id2label={"1": "x" * 2_000_000}), "has 2,000,000 characters"),
        (lambda f: changed(f, CONFIG, dropout=None), "dropout = None"),
        (lambda f: changed(f, CONFIG, dropout="x"), "dropout = 'x'"),
        (lambda f: changed(f, CONFIG, dropout=float("nan")), "dropout = nan"),
        (lambda f: changed(f, PREPROCESSOR, size={"shortest_edge": float("inf")}), "invalid content"),
        (lambda f: changed(f, PREPROCESSOR, size={"shortest_edge": 64, "longest_edge": -1}), "max_size = -1"),
        (lambda f: changed(f, PREPROCESSOR, size={"shortest_edge": 30000, "longest_edge": 30000}), "33,554,432"),
        (lambda f: changed(f, PREPROCESSOR, image_mean=[float("nan")] * 3), "mean = nan"),
        (lambda f: (f / PREPROCESSOR).write_text("[" * 100_000), "preprocessor_config.json"),
        (lambda f: shortened(f, "k_proj"), "do not fit the model.* left over: .*k_proj"),
    ],
)
def test_invalid_folders(folder: Path, tmp_path: Path, change: Any, reason: str) -> None:
    copied(folder, tmp_path)
    change(tmp_path)
    with pytest.raises(WeightsError, match=reason):
        load_checkpoint(str(tmp_path)).model()


def shortened(folder: Path, name: str) -> None:
    """Remove a column of some projections."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    short = {key: value[..., :-1].contiguous() for key, value in tensors.items() if f"{name}.weight" in key}
    save_file({**tensors, **short}, path)


def copied(folder: Path, to: Path) -> None:
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())


def test_older_formats(folder: Path, tmp_path: Path) -> None:
    """A size as a number, no normalisation, dilation as a stride of the backbone."""
    copied(folder, tmp_path)
    changed(tmp_path, PREPROCESSOR, size=70, max_size=99, do_normalize=False)
    changed(tmp_path, CONFIG, dilation=False, backbone_config={"output_stride": 16})
    checkpoint = load_checkpoint(str(tmp_path))
    assert checkpoint.preprocessing.resize == ShortestEdge(70, 99)
    assert (checkpoint.preprocessing.mean, checkpoint.preprocessing.std) == ((0, 0, 0), (1, 1, 1))
    assert checkpoint.config.dilated
