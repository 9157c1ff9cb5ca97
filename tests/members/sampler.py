"""An architecture that differs from DETR in everything that can differ.

It has sigmoid scoring, a denoising group, a backbone with two maps that it uses both, attention to sampled points, a
fourth loss term and a fixed input size. No other file refers to it but the tests that register it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrcli.architectures.architecture import Architecture, DataFacts
from detrcli.architectures.common import set_prediction_loss
from detrcli.config import Layers, LossConfig, ModelConfig, Preprocessing, Width
from detrcli.losses.criterion import Criterion
from detrcli.losses.scoring import Sigmoid
from detrcli.losses.terms import LossTerm, per_object
from detrcli.model.backbone import Backbone
from detrcli.model.detection_transformer import BoxHead, DetectionTransformer
from detrcli.model.inspectable import ForwardRecord, Inspectable, Sampled, Stage
from detrcli.resize import ExactSize
from detrcli.structures import Batch, Match, ObjectCounts, Output, QueryGroup, Target

HEADS, POINTS, REPEATS = 2, 3, 2


@dataclass(frozen=True)
class SamplerConfig(ModelConfig):
    dim: Width = 16
    layers: Layers = 2
    queries: int = 7
    classes: int = 5


class TwoMaps(Backbone):
    channels = (8, 16)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=4, padding=1)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1)

    def stem(self) -> Sequence[nn.Module]:
        return (self.conv1,)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        fine = self.conv1(images).relu()
        return fine, self.conv2(fine).relu()


class SampledAttention(nn.Module):
    """Attention of each query to a few points around its reference on each map."""

    def __init__(self, dim: int, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.offsets = nn.Linear(dim, HEADS * levels * POINTS * 2)
        self.weights = nn.Linear(dim, HEADS * levels * POINTS)
        self.values = nn.Linear(dim, dim)

    def forward(self, x: Tensor, references: Tensor, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the values (B, Q, C) at the sampled points, the points and the weights."""
        B, Q, C = x.shape
        shape = (B, Q, HEADS, self.levels, POINTS)
        offsets = self.offsets(x).view(*shape, 2)
        center, size = references[..., :2], references[..., 2:]
        points = center[:, :, None, None, None] + 0.5 * offsets.tanh() * size[:, :, None, None, None]
        weights = self.weights(x).view(B, Q, HEADS, -1).softmax(-1).view(shape)
        combined = x.new_zeros(B, Q, HEADS, C // HEADS)
        for level, map_ in enumerate(maps):
            values = self.values(map_.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # (B, C, h, w)
            by_head = values.unflatten(1, (HEADS, -1)).flatten(0, 1)  # (B * heads, C / heads, h, w)
            at = points[:, :, :, level].transpose(1, 2).flatten(0, 1) * 2 - 1  # (B * heads, Q, P, 2)
            taken = F.grid_sample(by_head, at, align_corners=False).unflatten(0, (B, HEADS))
            combined = combined + torch.einsum("bhcqp,bqhp->bqhc", taken, weights[:, :, :, level])
        return combined.flatten(2), points, weights


class Sampler(DetectionTransformer):
    def __init__(self, config: SamplerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.backbone = TwoMaps()
        self.projections = nn.ModuleList([nn.Conv2d(c, dim, 1) for c in TwoMaps.channels])
        self.contents = nn.Parameter(torch.randn(config.queries, dim))
        self.references = nn.Parameter(torch.randn(config.queries, 4))
        self.label_contents = nn.Embedding(config.classes, dim)
        self.attentions = nn.ModuleList([SampledAttention(dim, 2) for _ in range(config.layers)])
        self.norms = nn.ModuleList([nn.LayerNorm(dim) for _ in range(config.layers)])
        self.class_head = nn.Linear(dim, Sigmoid().num_logits(config.classes))
        self.box_head = BoxHead(dim)

    def forward(self, batch: Batch, targets: Sequence[Target] | None = None) -> Output:
        maps = [p(m) for p, m in zip(self.projections, self.backbone(batch.images), strict=True)]
        B = len(batch.images)
        decoder = self._decode("decoder", self.contents.expand(B, -1, -1), self.references.expand(B, -1, -1), maps)
        if not self.training or targets is None:
            return Output(decoder, named={"features": maps[0]})
        return Output(decoder, (self._denoise(targets, maps),), {"features": maps[0]})

    def _decode(self, name: str, x: Tensor, boxes: Tensor, maps: Sequence[Tensor], **facts: Any) -> QueryGroup:
        hidden, refined = [], []
        for attention, norm in zip(self.attentions, self.norms, strict=True):
            combined, *_ = attention(x, boxes.sigmoid(), maps)
            x = norm(x + combined)
            boxes = boxes + self.box_head.logits(x)
            hidden.append(x)
            refined.append(boxes.sigmoid())
            boxes = boxes.detach()
        states = torch.stack(hidden)
        return QueryGroup(name, self.class_head(states), torch.stack(refined), states, **facts)

    def _denoise(self, targets: Sequence[Target], maps: Sequence[Tensor]) -> QueryGroup:
        """Return a group of queries that start at noisy boxes of the objects, each several times."""
        device = maps[0].device
        B, Q = len(targets), REPEATS * max(1, *map(len, targets))
        contents = torch.zeros(B, Q, self.contents.shape[1], device=device)
        boxes = torch.zeros(B, Q, 4, device=device)
        own, images, queries, objects = [], [], [], []
        start = 0
        for i, target in enumerate(targets):
            n = REPEATS * len(target)
            own.append(Target(target.labels.repeat(REPEATS), target.boxes.repeat(REPEATS, 1)))
            noise = 0.1 * (2 * torch.rand(n, 4, device=device) - 1)
            boxes[i, :n] = (own[-1].boxes + noise).clamp(0.01, 0.99).logit()
            contents[i, :n] = self.label_contents(own[-1].labels)
            images += [i] * n
            queries += range(n)
            objects += range(start, start + n)
            start += n
        L, P = len(self.attentions), len(images)
        pairs = [
            torch.tensor(values, device=device, dtype=torch.long).repeat(L) for values in (images, queries, objects)
        ]
        match = Match(torch.arange(L, device=device).repeat_interleave(P), *pairs)

        def counts(objects: Sequence[int]) -> ObjectCounts:
            return [REPEATS * n for n in objects], REPEATS * max(1, *objects)

        return self._decode("denoising", contents, boxes, maps, targets=own, match=match, counts=counts)


class SamplerRecord(ForwardRecord):
    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []  # references, points, weights of each layer

    def cross(self, layer: int, queries: Sequence[int]) -> Sampled:
        references, points, weights = (value[:, list(queries)] for value in self.calls[layer])
        return Sampled(points, weights, references, self.cells)


class SamplerInspectable(Inspectable):
    heads, encoder_layers = HEADS, 0
    abilities = frozenset({"cross-attention"})

    def __init__(self, model: Sampler) -> None:
        self.model = model
        self.decoder_layers = len(model.attentions)

    @contextmanager
    def recorded(self) -> Iterator[SamplerRecord]:
        record = SamplerRecord()

        def record_call(_module: nn.Module, inputs: Any, output: Any) -> None:
            record.calls.append((inputs[1].detach(), output[1].detach(), output[2].detach()))
            record.cells = tuple(inputs[2][0].shape[-2:])

        def record_output(_module: nn.Module, _inputs: Any, output: Output) -> None:
            record.output = output
            record.calls = record.calls[-self.decoder_layers :]  # of the last forward pass

        with ExitStack() as hooks:
            hooks.enter_context(self.model.register_forward_hook(record_output))
            for module in self.model.attentions:
                hooks.enter_context(module.register_forward_hook(record_call))
            yield record

    def stages(self) -> Sequence[Stage]:
        return [
            Stage("backbone", self.model.backbone, 3, pick=lambda maps: maps[-1]),
            Stage("class head", self.model.class_head, 2),
        ]


def center(matched: Any) -> Tensor:
    return (matched.boxes[:, :2] - matched.truth[:, :2]).square().sum(-1)


class SamplerArchitecture(Architecture[SamplerConfig]):
    name = "sampler"
    config = SamplerConfig
    presets: Mapping[str, SamplerConfig] = {"sampler": SamplerConfig()}
    preprocessing = Preprocessing(ExactSize(32, 48))
    weights: Mapping[str, float] = {"class": 2.0, "l1": 5.0, "giou": 2.0}
    loss = LossConfig(class_cost="focal", cost=weights, loss={**weights, "center": 1.0})

    def build(self, config: SamplerConfig) -> Sampler:
        return Sampler(config)

    def scoring(self, config: SamplerConfig) -> Sigmoid:
        return Sigmoid(top_k=20)

    def make_loss(self, config: SamplerConfig, loss: LossConfig) -> Criterion:
        base = set_prediction_loss(self.scoring(config), loss)
        terms = [*base.terms, LossTerm("center", loss.weight("loss", "center"), center, per_object)]
        return Criterion(base.scoring, base.matcher, terms)

    def inspect(self, model: Sampler) -> SamplerInspectable:
        return SamplerInspectable(model)

    def recipe(self, config: SamplerConfig, facts: DataFacts) -> Mapping[str, Any]:
        return {"lr": 2e-3, "schedule": "cosine", "grad_clip": 1.0}


ARCHITECTURE = SamplerArchitecture()
