"""ImageNet weights in the backbone: torchvision's files, here or from a server on 127.0.0.1."""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from server import serving, whole
from small import CONFIG, TINY
from torch import Tensor
from torchvision.models import ResNet50_Weights, get_model

from detrcli.architectures.detr import build
from detrcli.checkpoints.download import hash_in_name
from detrcli.checkpoints.formats import backbone
from detrcli.checkpoints.formats.backbone import backbone_weights
from detrcli.errors import UsageError, WeightsError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETR_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def resnet() -> torch.nn.Module:
    """Torchvision's, with batch statistics that are not those of the start."""
    torch.manual_seed(0)
    resnet = get_model("resnet50", weights=None)
    for name, buffer in resnet.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.8, 1.2)
        else:
            buffer.fill_(7)
    return resnet.eval()


@pytest.fixture(scope="module")
def file(resnet: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backbone") / "resnet50.pth"
    torch.save(resnet.state_dict(), path)
    return path


@torch.no_grad()
def features(resnet: torch.nn.Module, images: Tensor) -> Tensor:
    """Torchvision's own forward pass, as far as its last stage."""
    seen = []
    hook = resnet.layer4.register_forward_hook(lambda _module, _args, output: seen.append(output))
    resnet(images)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_the_backbone_sees_what_torchvision_sees(norm: str, file: Path, resnet: torch.nn.Module) -> None:
    config = replace(CONFIG, norm=norm)
    tensors = backbone_weights(config, str(file))
    model = build(config).eval()
    assert tensors.keys() == {name for name in model.state_dict() if name.startswith("backbone.")}
    left = model.load_state_dict(tensors, strict=False)
    assert left.unexpected_keys == []
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        (ours,) = model.backbone(images)
        torch.testing.assert_close(ours, features(resnet, images), rtol=1e-3, atol=1e-3)
    counts = [value for name, value in tensors.items() if name.endswith("num_batches_tracked")]
    assert len(counts) == (53 if norm == "batch" else 0)
    assert all(count.dtype == torch.int64 and count == 0 for count in counts)


def test_imagenet_is_fetched_once(file: Path, resnet: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchvision's table with a server here in the place of its own."""
    body = file.read_bytes()
    name = f"/resnet50-{hashlib.sha256(body).hexdigest()[:8]}.pth"
    with serving() as server:
        server.answers[name] = whole(body)
        table = {"IMAGENET1K_V1": SimpleNamespace(url=server.url + name)}
        monkeypatch.setattr(backbone, "get_model_weights", {"resnet50": table}.__getitem__)
        told: list[str] = []
        for _ in range(2):
            tensors = backbone_weights(CONFIG, "imagenet", lambda name, done, total: told.append(name))
        assert server.asked == [name]
        assert set(told) == {name[1:]}
    assert torch.equal(tensors["backbone.body.conv1.weight"], resnet.conv1.weight)


def test_other_contents_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server:
        server.answers["/resnet50-01234567.pth"] = whole(file.read_bytes())
        table = {"IMAGENET1K_V1": SimpleNamespace(url=server.url + "/resnet50-01234567.pth")}
        monkeypatch.setattr(backbone, "get_model_weights", {"resnet50": table}.__getitem__)
        with pytest.raises(WeightsError, match="not 01234567"):
            backbone_weights(CONFIG, "imagenet")


def test_torchvision_promises_a_hash() -> None:
    """What is fetched for "imagenet" if nobody takes its table's place."""
    assert hash_in_name(ResNet50_Weights.IMAGENET1K_V1.url) == "0676ba61"


def saved(tensors: Mapping[str, Tensor], path: Path) -> str:
    torch.save(dict(tensors), path)
    return str(path)


def test_what_does_not_fit_is_explained(tmp_path: Path, resnet: torch.nn.Module) -> None:
    path = tmp_path / "w.pth"
    state = resnet.state_dict()
    with pytest.raises(WeightsError, match=r"\d+ missing: backbone.body.layer3.10"):
        backbone_weights(replace(CONFIG, backbone="resnet101"), saved(state, path))
    with pytest.raises(WeightsError, match=r"1 left over: backbone.body.extra"):
        backbone_weights(CONFIG, saved(state | {"extra": torch.zeros(1)}, path))
    with pytest.raises(WeightsError, match=r"1 of another shape: backbone.body.bn1.bias is 2 for 64"):
        backbone_weights(CONFIG, saved(state | {"bn1.bias": torch.zeros(2)}, path))
    with pytest.raises(WeightsError, match="no such file"):
        backbone_weights(CONFIG, str(tmp_path / "nowhere.pth"))


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    torch.save({"conv1.weight": io.StringIO}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="refused, and nothing of it was run"):
        backbone_weights(CONFIG, str(tmp_path / "w.pth"))


def test_who_has_none() -> None:
    """Before anything is fetched."""
    with pytest.raises(WeightsError, match=r"trained with batch norm.*\n?Use norm = frozen or batch"):
        backbone_weights(replace(CONFIG, norm="group"), "imagenet")
    with pytest.raises(UsageError, match="no trained weights for the backbone of a detr-tiny"):
        backbone_weights(TINY, "imagenet")
