"""ImageNet weights for backbones, from torchvision's files on the disk or a server on 127.0.0.1."""

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
from torchvision.models.feature_extraction import create_feature_extractor

from detrcli.architectures import Preset, detr, tiny
from detrcli.checkpoints.download import hash_in_name
from detrcli.checkpoints.formats.torchvision import backbone_weights
from detrcli.errors import UsageError, WeightsError


def model(**changes: object) -> Preset:
    return Preset(detr.ARCHITECTURE, replace(CONFIG, **changes))


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


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_features_are_those_of_torchvision(norm: str, file: Path, resnet: torch.nn.Module) -> None:
    architecture, config = model(norm=norm)
    tensors = backbone_weights(Preset(architecture, config), str(file))
    network = architecture.build(config).eval()
    assert tensors.keys() == {name for name in network.state_dict() if name.startswith("backbone.")}
    assert network.load_state_dict(tensors, strict=False).unexpected_keys == []
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        features = create_feature_extractor(resnet, ["layer4"])(images)["layer4"]
        torch.testing.assert_close(network.backbone(images)[-1], features, rtol=1e-3, atol=1e-3)
    counts = [value for name, value in tensors.items() if name.endswith("num_batches_tracked")]
    assert len(counts) == (53 if norm == "batch" else 0)
    assert all(count.dtype == torch.int64 and count == 0 for count in counts)


def test_imagenet_weights_are_downloaded(file: Path, resnet: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a server here instead of torchvision's: once, and only with the hash in the name."""
    body = file.read_bytes()
    name = f"/resnet50-{hashlib.sha256(body).hexdigest()[:8]}.pth"
    table: dict[str, SimpleNamespace] = {}
    monkeypatch.setattr("torchvision.models.get_model_weights", {"resnet50": table}.__getitem__)
    with serving() as server:
        server.answers |= {name: whole(body), "/resnet50-01234567.pth": whole(body)}
        table["IMAGENET1K_V1"] = SimpleNamespace(url=server.url + name)
        for _ in range(2):
            tensors = backbone_weights(model(), "imagenet")
        assert server.asked == [name]
        assert torch.equal(tensors["backbone.body.conv1.weight"], resnet.conv1.weight)
        table["IMAGENET1K_V1"] = SimpleNamespace(url=server.url + "/resnet50-01234567.pth")
        with pytest.raises(WeightsError, match="not 01234567"):
            backbone_weights(model(), "imagenet")


def test_torchvisions_own_address_has_a_hash() -> None:
    assert hash_in_name(ResNet50_Weights.IMAGENET1K_V1.url) == "0676ba61"


@pytest.mark.parametrize(
    ("changes", "tensors", "reason"),
    [
        ({"backbone": "resnet101"}, {}, r"\d+ missing: backbone.body.layer3.10"),
        ({}, {"extra": torch.zeros(1)}, "1 left over: backbone.body.extra"),
        ({}, {"bn1.bias": torch.zeros(2)}, "1 of another shape: backbone.body.bn1.bias is 2 instead of 64"),
        ({}, {"conv1.weight": io.StringIO}, "refused"),
    ],
    ids=["missing", "left over", "shape", "code"],
)
def test_unsuitable_files(
    changes: Mapping[str, str], tensors: Mapping[str, Tensor], reason: str, tmp_path: Path, resnet: torch.nn.Module
) -> None:
    torch.save(resnet.state_dict() | tensors, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=reason):
        backbone_weights(model(**changes), str(tmp_path / "w.pth"))


def test_models_without_imagenet_weights(tmp_path: Path) -> None:
    """The error comes before a download."""
    with pytest.raises(WeightsError, match="Use norm = frozen or batch"):
        backbone_weights(model(norm="group"), "imagenet")
    with pytest.raises(UsageError, match="backbone of a detr-tiny"):
        backbone_weights(Preset(tiny.DETR_TINY, TINY), "imagenet")
    with pytest.raises(WeightsError, match="no such file"):
        backbone_weights(model(), str(tmp_path / "nowhere.pth"))
