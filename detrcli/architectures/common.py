"""Parts that our own architectures share: config fields, ResNet backbones, losses."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

from detrcli.architectures.architecture import Architecture, C, PretrainedBackbone
from detrcli.config import Count, Layers, LossConfig, ModelConfig, Share, Width
from detrcli.errors import UsageError
from detrcli.losses.criterion import Criterion
from detrcli.losses.matching import HungarianMatcher
from detrcli.losses.scoring import Scoring, Sigmoid, Softmax
from detrcli.losses.terms import LossTerm, class_cost, class_loss, giou_cost, giou_loss, l1_cost, l1_loss
from detrcli.model.backbone import NORMS, Backbone, ResNet
from detrcli.model.deformable_transformer import DeformableDecoderLayer, DeformableEncoder
from detrcli.model.position import SinePosition
from detrcli.model.pyramid import PyramidInput
from detrcli.model.recorded_attention import DenseInspectable, SampledInspectable

S = TypeVar("S", bound=Scoring)


@dataclass(frozen=True)
class TransformerConfig(ModelConfig):
    """The settings that all our models share."""

    encoder_layers: Layers = 6
    decoder_layers: Layers = 6
    dim: Width = 256
    heads: Width = 8
    feed_forward: Width = 2048
    dropout: Share = 0.1
    dim_multiple: ClassVar[int] = 4  # required by the position encoding

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % self.heads or self.dim % self.dim_multiple:
            raise UsageError(
                f"dim = {self.dim}: must be a multiple of {self.dim_multiple} and of the {self.heads} heads."
            )


@dataclass(frozen=True)
class ResNetConfig(TransformerConfig):
    """The settings of models with a ResNet backbone."""

    backbone: Literal["resnet50", "resnet101"] = "resnet50"
    norm: Literal["frozen", "batch", "group"] = "frozen"
    classes: Count = 91  # the highest COCO id + 1


def make_resnet(config: ResNetConfig, *, dilated: bool = False) -> ResNet:
    """Return the backbone of a config. Frozen norms come with a frozen stem, as published."""
    backbone = ResNet(config.backbone, norm=NORMS[config.norm], dilated=dilated)
    backbone.freeze("stem" if config.norm == "frozen" else "none")
    return backbone


def set_prediction_loss(
    scoring: S, loss: LossConfig, class_term: Callable[[S, float], LossTerm] = class_loss, eps: float = 0.0
) -> Criterion:
    """Return DETR's loss: class, L1 and generalized IoU, in all layers of all query groups.

    `eps` is added to the denominators of the generalized IoU.
    """
    costs = [
        class_cost(scoring, loss.class_cost, loss.weight("cost", "class")),
        l1_cost(loss.weight("cost", "l1")),
        giou_cost(loss.weight("cost", "giou"), eps),
    ]
    terms = [
        class_term(scoring, loss.weight("loss", "class")),
        l1_loss(loss.weight("loss", "l1")),
        giou_loss(loss.weight("loss", "giou"), eps),
    ]
    return Criterion(scoring, HungarianMatcher(costs, loss.matching), terms)


class OwnArchitecture(Architecture[C]):
    """An architecture whose network is defined in `model/`."""

    initialized_in_place = True

    def pretrained_backbone(self, config: C) -> PretrainedBackbone | None:
        if not isinstance(config, ResNetConfig):
            return None
        obstacle = "group norm has no statistics, unlike the batch norm of these weights. Use norm = frozen or batch."
        return PretrainedBackbone(config.backbone, "backbone.body.", obstacle if config.norm == "group" else None)


class SoftmaxArchitecture(OwnArchitecture[C]):
    """An architecture with a softmax over classes and no-object, and dense attention."""

    def scoring(self, config: C) -> Softmax:
        return Softmax()

    def make_loss(self, config: C, loss: LossConfig) -> Criterion:
        return set_prediction_loss(replace(self.scoring(config), no_object=loss.no_object), loss)

    def inspect(self, model: Any) -> DenseInspectable:
        return DenseInspectable(model)


class FocalArchitecture(OwnArchitecture[C]):
    """An architecture with a sigmoid for each class, focal loss, and deformable attention."""

    loss = LossConfig(
        class_cost="focal", cost={"class": 2.0, "l1": 5.0, "giou": 2.0}, loss={"class": 2.0, "l1": 5.0, "giou": 2.0}
    )

    def scoring(self, config: C) -> Sigmoid:
        return Sigmoid(top_k=100)

    def make_loss(self, config: C, loss: LossConfig) -> Criterion:
        return set_prediction_loss(self.scoring(config), loss)

    def inspect(self, model: Any) -> SampledInspectable:
        return SampledInspectable(model)

    def parts(
        self, c: Any, backbone: Backbone, position: SinePosition, *, maps: int = 1, levels: int = 1
    ) -> dict[str, Any]:
        """Return the parts of a network up to the encoder, which uses the last `maps` feature maps of the backbone."""
        return {
            "backbone": backbone,
            "pyramid": PyramidInput(backbone.channels[-maps:], levels, c.dim, position),
            "encoder": DeformableEncoder(c.encoder_layers, c.dim, c.heads, levels, c.points, c.feed_forward, c.dropout),
            "dim": c.dim,
            "rows": self.scoring(c).num_logits(c.classes),
        }

    def decoder_layers(self, c: Any, levels: int = 1) -> list[DeformableDecoderLayer]:
        sizes = (c.dim, c.heads, levels, c.points, c.feed_forward, c.dropout)
        return [DeformableDecoderLayer(*sizes) for _ in range(c.decoder_layers)]
