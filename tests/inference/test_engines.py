"""All ways to compute a network give the same numbers."""

import shutil
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from golden_rules import Golden
from members import sampler, stranger
from small import CONFIG, TINY, architecture_of, small_weights
from test_golden import MODELS, ON_SOME, our_name
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import detrcli
from detrcli.api.evaluating import evaluate
from detrcli.architectures import preset
from detrcli.config import ModelConfig
from detrcli.errors import UsageError
from detrcli.inference import fuse as fusing
from detrcli.inference.detector import Detector
from detrcli.inference.engines import CompiledEngine, Engine, FastEngine, PlainEngine, fastest
from detrcli.inference.fuse import FusedAttention, FusedConvolution, can_pack, fuse
from detrcli.model.backbone import Backbone
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.structures import Batch

CPU = torch.device("cpu")
TOLERANCE = 1e-4


def same(model: DetectionTransformer, batch: Batch, other: Engine | None = None) -> None:
    """The fast engine, or another one, computes what the plain engine does."""
    plain, fast = PlainEngine(model, CPU)(batch), (other or FastEngine(model, CPU))(batch)
    assert fast.logits.dtype == fast.boxes.dtype == torch.float32
    torch.testing.assert_close(fast.logits.softmax(-1), plain.logits.softmax(-1), rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(fast.logits.sigmoid(), plain.logits.sigmoid(), rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(fast.boxes, plain.boxes, rtol=0, atol=TOLERANCE)
    assert plain.logits.std() > 1e-3  # the comparison is not trivial
    if plain.masks is not None and fast.masks is not None:
        some = torch.arange(len(plain.logits)), torch.arange(len(plain.logits))  # a query of each image
        masks = plain.masks(*some)
        torch.testing.assert_close(fast.masks(*some).sigmoid(), masks.sigmoid(), rtol=0, atol=TOLERANCE)
        assert masks.std() > 1e-3


@pytest.mark.parametrize("name", ON_SOME)
def test_fused_reference_values(name: str) -> None:
    """Two images of different sizes, which requires padding; and the first alone."""
    golden = Golden(name)
    architecture, config = MODELS[name]
    model = architecture.build(config)
    model.load_state_dict({our_name(key, model.has_masks): value for key, value in golden.state_dict().items()})
    model.eval()
    batch = golden.batch()
    assert batch.padding is not None
    same(model, batch)
    same(model, Batch(batch.images[:1], None))


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        replace(TINY, norm="group"),
        replace(CONFIG, norm="batch"),
        sampler.SamplerConfig(),
        stranger.StrangerConfig(),
        replace(preset("dino-tiny").config, classes=3),
        replace(preset("deformable-tiny").config, classes=3),
    ],
    ids=["tiny", "group norm", "batch norm", "sampler", "stranger", "dino-tiny", "deformable-tiny"],
)
def test_fused_architectures(config: ModelConfig) -> None:
    torch.manual_seed(0)
    member = {known.config: known for known in (sampler.ARCHITECTURE, stranger.ARCHITECTURE)}.get(type(config))
    model = member.build(config).eval() if member else small_weights(config).model()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # that has counted something
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    same(model, Batch(torch.randn(2, 3, 64, 96), None))


def test_everything_in_the_backbone_is_fused() -> None:
    """Of a ResNet: 53 convolutions with their norms, sums and ReLUs; and no norm is left."""
    fused = fuse(small_weights().model())
    convolutions = [item for item in fused.backbone.modules() if isinstance(item, FusedConvolution)]
    assert len(convolutions) == 53
    assert sum(item.activation == "relu" for item in convolutions) == 49  # all but the four shortcuts
    names = {type(item).__name__ for item in fused.modules()}
    assert not names & {"FrozenBatchNorm2d", "Conv2d", "Linear", "MultiheadAttention", "ReLU"}
    assert sum(isinstance(item, FusedAttention) for item in fused.modules()) == 5


def test_the_plain_model_does_not_change() -> None:
    checkpoint = small_weights()
    model = checkpoint.model()
    kinds = [type(item) for item in model.modules()]
    fuse(model, torch.bfloat16)
    assert [type(item) for item in model.modules()] == kinds
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, checkpoint.tensors[name]), name


class Forked(Backbone):
    """A backbone with data-dependent control flow, which cannot be traced."""

    channels = (4,)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (images if images.mean() > 0 else -images,)

    def stem(self) -> tuple[nn.Module, ...]:
        return ()


class Scaled(Backbone):
    """A backbone that adds with a factor, which a fused sum does not have."""

    channels = (3,)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (torch.add(self.conv(images), images, alpha=2),)

    def stem(self) -> tuple[nn.Module, ...]:
        return ()


def test_a_sum_with_a_factor_is_not_fused() -> None:
    backbone, images = Scaled().eval(), torch.randn(1, 3, 8, 8)
    fused = fusing.fuse_traced(backbone, torch.float32, packed=False)
    assert fused is not None
    with torch.no_grad():
        torch.testing.assert_close(fused(images)[0], backbone(images)[0])


class Parallel(nn.Module):
    """RepVGG's block, then a sum of which one side is used again through a view, and linear layers with activations."""

    def __init__(self, activation: nn.Module, **small: Any) -> None:
        super().__init__()
        self.large, self.small = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 1, **small)
        self.norm, self.activation = nn.BatchNorm2d(4), activation
        self.first, self.second, self.linear = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 4)
        nn.init.uniform_(self.norm.running_mean, -1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(self.activation(self.norm(self.large(x)) + self.small(x)))
        half = y.chunk(2, 1)[0]
        z = (self.second(x) + y).relu()
        return self.linear(self.activation(self.linear((z + half.repeat(1, 2, 1, 1)).movedim(1, 3))))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("activation", "small", "convolutions"),
    [
        (nn.ReLU(), {}, 3),
        (nn.SiLU(), {}, 3),
        (nn.GELU(), {}, 3),
        (nn.GELU("tanh"), {"groups": 2}, 4),
        (nn.Tanh(), {}, 3),
    ],
    ids=str,
)
def test_fused_blocks(activation: nn.Module, small: dict[str, Any], convolutions: int, packed: bool) -> None:
    """Parallel convolutions of an input become one, and no result that is used later is overwritten."""
    torch.manual_seed(0)
    block, images = Parallel(activation, **small).eval(), torch.randn(2, 4, 9, 8)
    fused = fusing.fuse_traced(block, torch.float32, packed=packed and can_pack(CPU, torch.float32))
    assert fused is not None
    assert sum(isinstance(item, FusedConvolution) for item in fused.modules()) == convolutions
    with torch.no_grad():
        torch.testing.assert_close(fused(images), block(images))


def test_an_untraceable_backbone_is_kept() -> None:
    assert fusing.fuse_traced(Forked(), torch.float32, packed=False) is None


def test_without_the_private_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of torch may not have them, or have them otherwise."""
    model = small_weights().model()
    batch = Batch(torch.randn(1, 3, 64, 64), None)
    monkeypatch.setattr(fusing.torch.ops.mkldnn, "_linear_pointwise", None)
    assert not can_pack(CPU, torch.float32)
    same(model, batch)
    monkeypatch.undo()

    def wrong(x: torch.Tensor, weight: torch.Tensor, *rest: object) -> torch.Tensor:
        return torch.zeros(*x.shape[:-1], len(weight))

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", SimpleNamespace(default=wrong))
    assert not can_pack(CPU, torch.float32)


def test_bf16_of_the_fast_engine() -> None:
    """Computed in it, but for boxes; near the plain model's."""
    model = small_weights(TINY).model()
    batch = Batch(torch.randn(1, 3, 64, 64), None)
    plain, fast = PlainEngine(model, CPU)(batch), FastEngine(model, CPU, "bf16")(batch)
    assert fast.boxes.dtype == torch.float32
    assert 1e-6 < (fast.boxes - plain.boxes).abs().max() < 0.02


def test_bf16_of_sampled_attention() -> None:
    """Compare most queries: between proposals of nearly equal score the selection may differ."""
    plain, fast = (
        detrcli.load("shapes", "cpu", engine=engine, precision=precision).engine
        for engine, precision in (("plain", "fp32"), ("fast", "bf16"))
    )
    for _ in range(5):
        batch = Batch(torch.randn(1, 3, 160, 160), None)
        assert (fast(batch).boxes - plain(batch).boxes).abs().median() < 0.01


@pytest.mark.parametrize("name", ["detr-tiny", "dino-tiny", "deformable-tiny"])
def test_bf16_meets_float32_in_sums_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPUs take a norm whose weights have another dtype than its input; GPUs refuse it."""
    mixed = set()

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = [item for item in args if isinstance(item, torch.Tensor) and item.is_floating_point()]
            if len({item.dtype for item in given if item.dim()}) > 1:
                mixed.add(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr(fusing, "can_pack", lambda device, dtype: False)  # as on a GPU
    architecture, config = preset(name)
    engine = FastEngine(architecture.build(config).eval(), CPU, "bf16")
    with Watching():
        engine(Batch(torch.randn(1, 3, 64, 96), None))
    assert mixed <= {"add", "sub", "mul", "div", "copy_", "_to_copy"}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile has no C++ compiler here")
def test_the_compiled_engine() -> None:
    """One layer each, because compiling takes long."""
    config = replace(preset("detr-tiny").config, encoder_layers=1, decoder_layers=1)
    torch.manual_seed(0)
    model = architecture_of(config).build(config).eval()
    padding = torch.zeros(2, 64, 96, dtype=torch.bool)
    padding[1, :, 48:] = True
    same(model, Batch(torch.randn(2, 3, 64, 96), padding), CompiledEngine(model, CPU))


@pytest.mark.parametrize("name", ["detr-tiny", "dino-tiny"])
def test_the_compiled_engine_of_several_sizes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the code as it is in place of compiled code."""
    monkeypatch.setattr(torch, "compile", lambda call: call)
    config = preset(name).config
    torch.manual_seed(0)
    model = architecture_of(config).build(config).eval()
    compiled = CompiledEngine(model, CPU)
    for size in ((64, 96), (96, 64)):
        same(model, Batch(torch.randn(2, 3, *size), None), compiled)


def test_fast_is_the_default_where_it_helps() -> None:
    assert fastest(CPU, "fp32") == fastest(CPU, "bf16") == "fast"
    assert fastest(torch.device("cuda"), "fp32") == fastest(torch.device("cuda"), "bf16") == "fast"
    assert fastest(torch.device("mps"), "fp32") == fastest(CPU, "fp16") == "plain"
    assert type(Detector(small_weights(), "cpu").engine) is FastEngine
    assert type(Detector(small_weights(), "cpu", engine="plain").engine) is PlainEngine
    with pytest.raises(UsageError, match="engine=plain"):
        _ = Detector(small_weights(), "cpu", "fp16", engine="fast").engine


@pytest.mark.slow
def test_average_precision_in_bf16() -> None:
    full, half = (evaluate("shapes", detrcli.load("shapes", "cpu", precision=name)) for name in ("fp32", "bf16"))
    assert abs(full.metrics["AP"] - half.metrics["AP"]) <= 0.002
