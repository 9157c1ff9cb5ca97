"""An architecture like those of other libraries: a loss of its own, checkpoints in folders, no attention to show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from detrcli.architectures.architecture import FolderArchitecture
from detrcli.config import LossConfig, ModelConfig, Preprocessing
from detrcli.losses.criterion import Loss, LossBreakdown, StepNormalizers
from detrcli.losses.scoring import Scoring, Softmax
from detrcli.model.backbone import Backbone
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.model.inspectable import NoAttention, Stage
from detrcli.resize import Placement, Resize
from detrcli.structures import Batch, Output, QueryGroup, Target


@dataclass(frozen=True)
class Square(Resize):
    """A square with the longer side."""

    kind = "strangers-square"
    most: int = 32

    def place(self, height: int, width: int) -> Placement:
        side = min(self.most, max(height, width))
        return Placement.filling(side, side)

    def with_size(self, size: int | None, max_size: int | None) -> "Square":
        return Square(size or self.most)

    @property
    def side(self) -> int:
        return self.most


@dataclass(frozen=True)
class StrangerConfig(ModelConfig):
    queries: int = 6
    classes: int = 5


class Grid(Backbone):
    channels = (8,)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)

    def stem(self) -> Sequence[nn.Module]:
        return ()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.conv(images).relu(),)


class Stranger(DetectionTransformer):
    def __init__(self, config: StrangerConfig) -> None:
        super().__init__()
        self.backbone = Grid()
        self.queries = nn.Parameter(torch.randn(config.queries, 8))
        self.labels = nn.Linear(8, Softmax().num_logits(config.classes))
        self.boxes = nn.Linear(8, 4)

    def forward(self, batch: Batch, targets: Sequence[Target] | None = None) -> Output:
        (features,) = self.backbone(batch.images)
        hidden = self.queries + features.mean((2, 3))[:, None]  # (B, Q, 8)
        logits, boxes = self.labels(hidden), self.boxes(hidden).sigmoid()
        return Output(QueryGroup("decoder", logits[None], boxes[None], hidden[None]))


class OwnLoss(Loss):
    """A loss without a known matching."""

    scoring: Scoring = Softmax()
    matcher = None

    def compute_loss(
        self, output: Output, targets: Sequence[Target], normalizers: StepNormalizers | None = None
    ) -> LossBreakdown:
        means = [target.boxes.mean(0) if len(target) else target.boxes.new_zeros(4) for target in targets]
        expected = torch.stack(means)
        boxes = (output.last.boxes - expected[:, None]).abs().mean()
        size = output.last.logits.square().mean()
        return LossBreakdown(boxes + 0.01 * size, {"distance": boxes, "size": size})


class StrangerInspectable(NoAttention):
    def stages(self) -> Sequence[Stage]:
        return [Stage("grid", self.model.backbone.conv, 3)]


class StrangerArchitecture(FolderArchitecture[StrangerConfig]):
    name = "stranger"
    config = StrangerConfig
    presets: Mapping[str, StrangerConfig] = {"stranger": StrangerConfig()}
    preprocessing = Preprocessing(Square(32))
    loss = LossConfig(cost={}, loss={})

    def build(self, config: StrangerConfig) -> Stranger:
        return Stranger(config)

    def scoring(self, config: StrangerConfig) -> Scoring:
        return Softmax()

    def make_loss(self, config: StrangerConfig, loss: LossConfig) -> OwnLoss:
        return OwnLoss()

    def inspect(self, model: Stranger) -> StrangerInspectable:
        return StrangerInspectable(model)

    def write(self, config: StrangerConfig, tensors: Mapping[str, Tensor], *_rest: Any) -> dict[str, bytes]:
        return {"weights/model.safetensors": save(dict(tensors)), "README": b"a stranger's weights"}

    def read_tensors(self, folder: Path) -> dict[str, Tensor]:
        return load((folder / "weights/model.safetensors").read_bytes())


ARCHITECTURE = StrangerArchitecture()
