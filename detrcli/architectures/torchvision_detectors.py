"""Detectors of torchvision beside the transformers: anchors or points in place of queries, suppression at the end.

What is not like a transformer is said: there is no attention to draw and no matching to explain.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from detrcli.architectures.architecture import Architecture
from detrcli.architectures.foreign import OWN, ForeignNetwork
from detrcli.architectures.own_loss import TOTAL, OwnLoss
from detrcli.boxes import cxcywh_to_xyxy
from detrcli.config import Count, LossConfig, ModelConfig, Preprocessing, Share
from detrcli.errors import WeightsError
from detrcli.losses.scoring import Scoring, Selection, Sigmoid
from detrcli.model.inspectable import NoAttention, Stage
from detrcli.resize import ScaledEdges
from detrcli.structures import Batch, Output, QueryGroup, Target

DetectorName = Literal[
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "fcos_resnet50_fpn",
]
ARCHITECTURES: tuple[DetectorName, ...] = get_args(DetectorName)
# Whose published weights have a frozen norm that adds nothing to the variance, and so have those trained from them.
NO_EPS = ("fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn")
# The tensors with rows of classes: in the first ones for each anchor, in the last one four for each class.
CLASS_ROWS = ("roi_heads.box_predictor.cls_score", "head.classification_head.cls_logits")
BOX_ROWS = "roi_heads.box_predictor.bbox_pred"


@dataclass(frozen=True)
class TorchvisionConfig(ModelConfig):
    """Which of them."""

    architecture: DetectorName = "fasterrcnn_resnet50_fpn"
    queries: Count = 100  # boxes that are left at most
    classes: Count = 90  # COCO's
    norm: Literal["frozen", "batch"] = "batch"  # of the backbone; the published ones are frozen
    eps: Share = 1e-5  # of a frozen one; some of the published were trained with 0


class Suppressed(Sigmoid):
    """Boxes with a class and a score each, which suppression has left; an empty place is no detection."""

    name = "suppressed"

    def select(self, logits: Tensor) -> Selection:
        found = super().select(logits)
        return Selection(found.queries, found.labels, found.scores.where(found.scores > 0, -1.0))


class TorchvisionDetector(ForeignNetwork):
    """The network. Its class rows stand one after the other, that of the background last, as ours do."""

    def __init__(self, config: TorchvisionConfig) -> None:
        from torchvision.models import get_model
        from torchvision.models.detection.transform import GeneralizedRCNNTransform

        super().__init__()
        self.classes, self.places = config.classes, config.queries
        self.network = get_model(
            config.architecture, weights=None, weights_backbone=None, num_classes=config.classes + 1
        )
        suppressing = getattr(self.network, "roi_heads", self.network)
        suppressing.detections_per_img = config.queries
        if config.norm == "frozen":
            _freeze_norms(self.network.backbone, config.eps)

        # Pictures are resized and normalised already, by the preprocessing.
        transform: Any = GeneralizedRCNNTransform(800, 1333, [0.0, 0.0, 0.0], [1.0, 1.0, 1.0])
        transform.resize = _as_given
        self.network.transform = transform

    def their_backbone(self) -> nn.Module:
        return cast("nn.Module", self.network.backbone)

    def stem(self) -> Sequence[nn.Module]:
        body = self.network.backbone.body
        return [body[name] for name in ("conv1", "bn1", "layer1") if name in body] or [body["0"]]

    def forward(self, batch: Batch, targets: Sequence[Target] | None = None) -> Output:
        images = [pixels[:, :h, :w] for pixels, (h, w) in zip(batch.images, _sizes(batch), strict=True)]
        nothing = batch.images.new_zeros(1, len(images), 0, 4)
        if self.training and targets is not None:
            losses = self.network(images, [_labelled(*one) for one in zip(images, targets, strict=True)])
            parts = {f"{TOTAL}_{name.removeprefix(f'{TOTAL}_')}": value for name, value in losses.items()}
            empty = batch.images.new_zeros(1, len(images), 0, self.classes)
            return Output(QueryGroup("decoder", empty, nothing), named={TOTAL: sum(losses.values()), **parts})
        with torch.no_grad():
            found = self.network(images)
        logits = batch.images.new_full((len(images), self.places, self.classes), -torch.inf)
        boxes = batch.images.new_zeros(len(images), self.places, 4)
        for i, (one, image) in enumerate(zip(found, images, strict=True)):
            real = one["labels"] > 0  # class 0 is the background, or nothing at all
            scores, labels = one["scores"][real], one["labels"][real] - 1
            logits[i, torch.arange(len(scores)), labels] = scores.logit().to(logits.dtype)
            boxes[i, : len(scores)] = _shares(one["boxes"][real], image)
        return Output(QueryGroup("decoder", logits[None], boxes[None]))

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Class rows as ours."""
        state = super().state_dict(*args, **kwargs)
        return {name: self._rows(name, value) for name, value in state.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """The other way round."""
        shapes = {name: value.shape for name, value in super().state_dict().items()}
        theirs = {name: self._rows_back(name, value, shapes[name]) for name, value in state_dict.items()}
        return super().load_state_dict(theirs, strict, assign)

    def _rows(self, name: str, value: Tensor) -> Tensor:
        """(K + 1, ...) with the background first, or (anchors * (K + 1), ...), to (K + 1, -1) with it last."""
        before = self._blocks(name, value)
        if before is None:
            return value
        rows = value.reshape(before, self.classes + 1, -1).transpose(0, 1).reshape(self.classes + 1, -1)
        return rows.roll(-1, 0)

    def _rows_back(self, name: str, rows: Tensor, shape: torch.Size) -> Tensor:
        before = self._blocks(name, torch.empty(shape, device="meta"))
        if before is None:
            return rows
        own = rows.roll(1, 0).reshape(self.classes + 1, before, -1).transpose(0, 1)
        return own.reshape(shape)

    def _blocks(self, name: str, value: Tensor) -> int | None:
        """How many blocks of classes stand one after the other: one for each anchor; None where no class has rows."""
        where = name.removeprefix(OWN).rpartition(".")[0]
        if where in CLASS_ROWS:
            return value.shape[0] // (self.classes + 1)
        return 1 if where == BOX_ROWS else None  # four numbers for each class, which stay together


def _as_given(image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
    return image, target


def _freeze_norms(module: nn.Module, eps: float) -> None:
    from torchvision.ops import FrozenBatchNorm2d

    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child.num_features, eps))
        else:
            _freeze_norms(child, eps)


def _sizes(batch: Batch) -> Iterator[tuple[int, int]]:
    """Height and width of each picture without its padding."""
    for i in range(len(batch.images)):
        if batch.padding is None:
            yield int(batch.images.shape[2]), int(batch.images.shape[3])
        else:
            there = ~batch.padding[i]
            yield int(there.any(1).sum()), int(there.any(0).sum())


def _labelled(image: Tensor, target: Target) -> dict[str, Tensor]:
    """As theirs take them: boxes in pixels of the input, labels from 1; a box without extent is left out."""
    h, w = image.shape[1:]
    boxes = cxcywh_to_xyxy(target.boxes) * target.boxes.new_tensor([w, h, w, h])
    kept = ((boxes[:, 2:] - boxes[:, :2]) > 1e-3).all(1)
    return {"boxes": boxes[kept], "labels": target.labels[kept] + 1}


def _shares(boxes: Tensor, image: Tensor) -> Tensor:
    """x0, y0, x1, y1 in pixels of the input to cx, cy, w, h in [0, 1]."""
    h, w = image.shape[1:]
    x0, y0, x1, y1 = boxes.unbind(-1)
    return torch.stack([(x0 + x1) / (2 * w), (y0 + y1) / (2 * h), (x1 - x0) / w, (y1 - y0) / h], -1)


class TorchvisionInspectable(NoAttention):
    """What can be seen of it: the maps of its backbone."""

    def stages(self) -> Sequence[Stage]:
        return [Stage("backbone", self.model.backbone, 3, {"nms": True}, pick=lambda maps: next(iter(maps.values())))]


def scoring(config: TorchvisionConfig) -> Scoring:
    """As many pairs as there are places."""
    return Suppressed(top_k=config.queries)


def config_of(name: str, tensors: Mapping[str, Tensor], source: str) -> TorchvisionConfig:
    """The config of a detector with tensors of these names; a WeightsError where they are others."""
    scores = [tensors[f"{where}.bias"] for where in CLASS_ROWS if f"{where}.bias" in tensors]
    if len(scores) != 1:
        raise WeightsError(f"{source}: these are no tensors of a {name}.")
    anchors = 9 if name.startswith("retinanet") else 1
    counted = any(key.startswith("backbone") and key.endswith("num_batches_tracked") for key in tensors)
    return replace(
        ARCHITECTURE.presets[name],
        classes=len(scores[0]) // anchors - 1,
        norm="batch" if counted else "frozen",
        eps=0.0 if name in NO_EPS else 1e-5,
    )


def detector_of(config: TorchvisionConfig) -> TorchvisionDetector:
    """The network of a config, with its random start."""
    return TorchvisionDetector(config)


def _class_rows(config: TorchvisionConfig) -> Mapping[str, Tensor]:
    fresh = TorchvisionDetector(config)
    names = [f"{OWN}{where}." for where in (*CLASS_ROWS, BOX_ROWS)]
    return {name: value for name, value in fresh.state_dict().items() if name.startswith(tuple(names))}


def _queries(architecture: str) -> int:
    return 300 if architecture.startswith("retinanet") else 100


ARCHITECTURE = Architecture(
    name="torchvision-detector",
    config=TorchvisionConfig,
    presets={name: TorchvisionConfig(architecture=name, queries=_queries(name)) for name in ARCHITECTURES},
    build=TorchvisionDetector,
    scoring=scoring,
    make_loss=lambda config, loss: OwnLoss(scoring(config), None),
    inspect=TorchvisionInspectable,
    preprocessing=Preprocessing(ScaledEdges(800, 1333), antialias=False, rescale_first=True, backend="torchvision"),
    class_rows=_class_rows,
    query_rows=lambda config: {},
    loss=LossConfig(cost={}, loss={}),
    recipe={"lr": 1e-4, "lr_backbone": 1e-4},
    difference=lambda found, wanted: (
        "" if found.architecture == wanted.architecture else f"it is a {found.architecture}"
    ),
    summary=lambda config: config.architecture,
)
