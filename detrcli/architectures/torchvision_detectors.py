"""Detectors of torchvision: Faster R-CNN, RetinaNet and FCOS beside the transformers.

Why: they are the baselines of a detection transformer, compared in the same commands, on the same data.

What deleting them costs: this file, `checkpoints/formats/torchvision.py` (weights `torchvision:NAME`), the line in
`architectures/__init__.py` and `tests/adapters/test_torchvision.py`. Nothing else refers to them.

How they are tested: against torchvision's own predictions, losses and class rows on random weights, without a download.
A single detector runs in the default tests, the others in the slow tests.

They have anchors or points instead of queries, so they show no attention and no matching. Their loss is their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from detrcli.architectures.architecture import Architecture, DataFacts
from detrcli.architectures.foreign import PREFIX, TOTAL, ForeignNetwork, OwnLoss
from detrcli.boxes import cxcywh_to_xyxy, from_pixels
from detrcli.config import Count, LossConfig, ModelConfig, Preprocessing, Share
from detrcli.errors import WeightsError
from detrcli.losses.scoring import Selection, Sigmoid
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
DETECTORS: tuple[DetectorName, ...] = get_args(DetectorName)
# Published with frozen norms that add nothing to the variance.
NO_EPS = ("fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn")
# The layers with a row per class: the first two have them for each anchor, the last has four per class.
CLASS_ROWS = ("roi_heads.box_predictor.cls_score", "head.classification_head.cls_logits")
BOX_ROWS = "roi_heads.box_predictor.bbox_pred"


@dataclass(frozen=True)
class TorchvisionConfig(ModelConfig):
    model: DetectorName = "fasterrcnn_resnet50_fpn"
    queries: Count = 100  # maximum number of boxes in an image
    classes: Count = 90  # of COCO
    norm: Literal["frozen", "batch"] = "batch"  # of the backbone; frozen in the published weights
    eps: Share = 1e-5  # of a frozen norm


class Suppressed(Sigmoid):
    """Scores of boxes that non-maximum suppression kept, each with a class. The remaining places are empty."""

    name = "suppressed"

    def select(self, logits: Tensor) -> Selection:
        selection = super().select(logits)
        return Selection(selection.queries, selection.labels, selection.scores.where(selection.scores > 0, -1.0))


class TorchvisionDetector(ForeignNetwork):
    """A network of torchvision.

    In its state dict the rows of a class are adjacent and the background is last, as the class heads of the other
    architectures have them. In torchvision the background is first, and each anchor has rows of its own.
    """

    not_exportable = "non-maximum suppression of torchvision keeps a number of boxes that depends on the image"

    def __init__(self, config: TorchvisionConfig) -> None:
        from torchvision.models import get_model
        from torchvision.models.detection.transform import GeneralizedRCNNTransform
        from torchvision.ops import FrozenBatchNorm2d

        super().__init__()
        self.classes, self.places = config.classes, config.queries
        self.network = get_model(config.model, weights=None, weights_backbone=None, num_classes=config.classes + 1)
        suppression = getattr(self.network, "roi_heads", self.network)
        suppression.detections_per_img = config.queries
        for name, module in list(self.backbone.named_modules()):
            if config.norm == "frozen" and isinstance(module, nn.BatchNorm2d):
                self.backbone.set_submodule(name, FrozenBatchNorm2d(module.num_features, config.eps))
        # The preprocessing has resized and normalized the images.
        transform: Any = GeneralizedRCNNTransform(800, 1333, [0.0, 0.0, 0.0], [1.0, 1.0, 1.0])
        transform.resize = lambda image, target=None: (image, target)
        self.network.transform = transform

    @property
    def backbone(self) -> nn.Module:  # type: ignore[override]  # the library's module
        backbone: nn.Module = self.network.backbone
        return backbone

    def stem(self) -> Sequence[nn.Module]:
        body = self.network.backbone.body
        return [body[name] for name in ("conv1", "bn1", "layer1") if name in body] or [body["0"]]

    def forward(self, batch: Batch, targets: Sequence[Target] | None = None) -> Output:
        images = list(batch.images)
        if batch.padding is not None:
            inside = ~batch.padding  # (B, H, W)
            sizes = zip(inside.any(2).sum(1).tolist(), inside.any(1).sum(1).tolist(), strict=True)
            images = [image[:, :h, :w] for image, (h, w) in zip(images, sizes, strict=True)]
        if self.training and targets is not None:
            losses = self.network(images, [_labeled(*pair) for pair in zip(images, targets, strict=True)])
            parts = {f"{TOTAL}_{name.removeprefix(f'{TOTAL}_')}": value for name, value in losses.items()}
            nothing = batch.images.new_zeros(1, len(images), 0, self.classes)
            group = QueryGroup("decoder", nothing, batch.images.new_zeros(1, len(images), 0, 4))
            return Output(group, named={TOTAL: sum(losses.values()), **parts})
        with torch.no_grad():
            results = self.network(images)
        logits = batch.images.new_full((len(images), self.places, self.classes), -torch.inf)
        boxes = batch.images.new_zeros(len(images), self.places, 4)
        for i, (result, image) in enumerate(zip(results, images, strict=True)):
            kept = result["labels"] > 0  # 0 is the background
            scores, labels = result["scores"][kept], result["labels"][kept] - 1
            logits[i, torch.arange(len(scores)), labels] = scores.logit().to(logits.dtype)
            boxes[i, : len(scores)] = from_pixels(result["boxes"][kept], *image.shape[1:])
        return Output(QueryGroup("decoder", logits[None], boxes[None]))

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        state = super().state_dict(*args, **kwargs)
        return {name: self._to_our_rows(name, value) for name, value in state.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        shapes = {name: value.shape for name, value in super().state_dict().items()}
        theirs = {name: self._to_their_rows(name, value, shapes[name]) for name, value in state_dict.items()}
        return super().load_state_dict(theirs, strict, assign)

    def _to_our_rows(self, name: str, value: Tensor) -> Tensor:
        """From (anchors * (K + 1), ...), the background first, to (K + 1, -1), the background last."""
        rows, anchors = self.classes + 1, self._anchors(name, value.shape)
        return value.reshape(anchors, rows, -1).transpose(0, 1).reshape(rows, -1).roll(-1, 0) if anchors else value

    def _to_their_rows(self, name: str, value: Tensor, shape: torch.Size) -> Tensor:
        rows, anchors = self.classes + 1, self._anchors(name, shape)
        return value.roll(1, 0).reshape(rows, anchors, -1).transpose(0, 1).reshape(shape) if anchors else value

    def _anchors(self, name: str, shape: torch.Size) -> int:
        """Return for how many anchors a tensor has class rows; 0 for a tensor without class rows."""
        layer = name.removeprefix(PREFIX).rpartition(".")[0]
        if layer in CLASS_ROWS:
            return shape[0] // (self.classes + 1)
        return int(layer == BOX_ROWS)  # the four numbers of a class stay together


def _labeled(image: Tensor, target: Target) -> dict[str, Tensor]:
    """Return the target for torchvision: xyxy boxes in pixels, labels from 1, without boxes of no extent."""
    h, w = image.shape[1:]
    boxes = cxcywh_to_xyxy(target.boxes) * target.boxes.new_tensor([w, h, w, h])
    kept = ((boxes[:, 2:] - boxes[:, :2]) > 1e-3).all(1)
    return {"boxes": boxes[kept], "labels": target.labels[kept] + 1}


class TorchvisionInspectable(NoAttention):
    def stages(self) -> Sequence[Stage]:
        return [Stage("backbone", self.model.backbone, 3, {"nms": True}, pick=lambda maps: next(iter(maps.values())))]


class TorchvisionArchitecture(Architecture[TorchvisionConfig]):
    name = "torchvision-detector"
    config = TorchvisionConfig
    presets: Mapping[str, TorchvisionConfig] = {
        name: TorchvisionConfig(model=name, queries=300 if name.startswith("retinanet") else 100) for name in DETECTORS
    }
    preprocessing = Preprocessing(ScaledEdges(800, 1333), antialias=False, rescale_first=True, backend="torchvision")
    loss = LossConfig(cost={}, loss={})

    def build(self, config: TorchvisionConfig) -> TorchvisionDetector:
        return TorchvisionDetector(config)

    def scoring(self, config: TorchvisionConfig) -> Suppressed:
        return Suppressed(top_k=config.queries)

    def make_loss(self, config: TorchvisionConfig, loss: LossConfig) -> OwnLoss:
        return OwnLoss(self.scoring(config), None)

    def inspect(self, model: TorchvisionDetector) -> TorchvisionInspectable:
        return TorchvisionInspectable(model)

    def recipe(self, config: TorchvisionConfig, facts: DataFacts) -> Mapping[str, Any]:
        return {"lr": 1e-4, "lr_backbone": 1e-4}

    def summary(self, config: TorchvisionConfig) -> str:
        return config.model

    def config_of(self, name: str, tensors: Mapping[str, Tensor], source: str) -> TorchvisionConfig:
        """Return the config of a detector with these tensors of torchvision. Raises WeightsError for others."""
        scores = [tensors[f"{layer}.bias"] for layer in CLASS_ROWS if f"{layer}.bias" in tensors]
        if len(scores) != 1:
            raise WeightsError(f"{source}: these are not the tensors of a {name}.")
        anchors = 9 if name.startswith("retinanet") else 1
        trainable = any(key.startswith("backbone") and key.endswith("num_batches_tracked") for key in tensors)
        return replace(
            self.presets[name],
            classes=len(scores[0]) // anchors - 1,
            norm="batch" if trainable else "frozen",
            eps=0.0 if name in NO_EPS else 1e-5,
        )


ARCHITECTURE = TorchvisionArchitecture()
