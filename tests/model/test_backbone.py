"""Backbones: norms, and freezing."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from small import CONFIG
from torch import nn
from torchvision.ops import FrozenBatchNorm2d as TorchvisionNorm

from detrcli.architectures.detr import ARCHITECTURE
from detrcli.model.backbone import NORMS, Backbone, FrozenBatchNorm2d, Part, ResNet, TinyBackbone

SMALL = pytest.mark.parametrize(
    "backbone",
    [lambda: ResNet("resnet50", norm=NORMS["batch"], dilated=False), lambda: TinyBackbone(8, norm=nn.BatchNorm2d)],
    ids=["resnet50", "tiny"],
)


# Prefixes of the parameters of either stem.
STEM = ("body.conv1", "body.bn1", "body.layer1", "conv.", "norm.", "stage1.")


def trainable(backbone: Backbone) -> set[str]:
    return {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
def test_norms_share_their_names(norm: str) -> None:
    """Batch norm has an additional counter, group norm no statistics."""
    with torch.device("meta"):
        ours = set(ARCHITECTURE.build(replace(CONFIG, norm=norm)).state_dict())
        frozen = set(ARCHITECTURE.build(CONFIG).state_dict())
    counters = {name.replace("running_var", "num_batches_tracked") for name in frozen if name.endswith("running_var")}
    statistics = {name for name in frozen if name.endswith(("running_var", "running_mean"))}
    assert ours == {"frozen": frozen, "batch": frozen | counters, "group": frozen - statistics}[norm]


def test_group_norm_has_32_groups() -> None:
    modules = ARCHITECTURE.build(replace(CONFIG, norm="group")).backbone.modules()
    assert [norm.num_groups for norm in modules if isinstance(norm, nn.GroupNorm)] == [32] * 53


@SMALL
def test_freezing(backbone: Callable[[], Backbone]) -> None:
    """Freezing does not depend on what was frozen before."""
    net = backbone()
    every = {name for name, _ in net.named_parameters()}
    stem = {name for name in every if name.startswith(STEM)}
    assert stem
    assert stem < every
    expected: dict[Part, set[str]] = {"none": every, "stem": every - stem, "all": set()}
    for part in ("stem", "all", "none", "all", "stem", "none"):
        net.freeze(part)
        assert trainable(net) == expected[part]


@SMALL
def test_frozen_parts_are_in_eval_mode(backbone: Callable[[], Backbone]) -> None:
    """In training, frozen batch norm computes as in inference, and its statistics stay."""
    torch.manual_seed(0)
    net = backbone()
    images = torch.randn(2, 3, 64, 64)
    for part, unchanged in (("all", True), ("none", False)):
        net.freeze(part)
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        *_, expected = net.eval()(images)
        *_, trained = net.train()(images)
        same = all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
        assert same is unchanged
        assert torch.equal(trained, expected) is unchanged

    net.freeze("stem")
    net.train()
    learning = {name for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d) and module.training}
    assert learning
    assert not any(name.startswith(STEM) for name in learning)


def test_a_built_model_starts_as_published() -> None:
    with torch.device("meta"):
        published = trainable(ARCHITECTURE.build(CONFIG).backbone)
        learning = trainable(ARCHITECTURE.build(replace(CONFIG, norm="batch")).backbone)
    assert not any(name.startswith(STEM) for name in published)
    assert any(name.startswith("body.layer2") for name in published)
    assert "body.conv1.weight" in learning


def test_a_frozen_norm_keeps_the_dtype_of_its_input() -> None:
    """It equals torchvision's norm to the bit in float32, and approximately in bf16."""
    norm = FrozenBatchNorm2d(4)
    theirs = TorchvisionNorm(4)
    for name, buffer in norm.named_buffers():
        buffer.copy_(torch.rand(4) + 0.5)
        getattr(theirs, name).copy_(buffer)
    x = torch.randn(2, 4, 5, 6)
    assert torch.equal(norm(x), theirs(x))
    half = norm(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), theirs(x), atol=0.05, rtol=0.02)
