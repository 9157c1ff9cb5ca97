"""A small DINO that learns from scratch on a CPU within minutes: the one to begin with on data of one's own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch import Tensor, nn

from detrcli.architectures.architecture import Architecture, DataFacts
from detrcli.architectures.deformable_detr import FOCAL, check_pyramid, focal_rows
from detrcli.architectures.detr import check_heads, class_and_boxes
from detrcli.architectures.dino import CLASS_HEADS, denoising_of, label_rows
from detrcli.architectures.tiny import NORMS
from detrcli.config import Bounds, Count, Layers, ModelConfig, Preprocessing, Share, Weight, Width
from detrcli.losses.scoring import Sigmoid
from detrcli.losses.terms import quality_class_loss
from detrcli.model.deformable_transformer import DeformableDecoderLayer, DeformableEncoder
from detrcli.model.dino import DINO
from detrcli.model.position import SinePosition
from detrcli.model.proposals import PureSelection
from detrcli.model.pyramid import PyramidInput
from detrcli.model.sampled_attention import SampledInspectable
from detrcli.model.tiny_backbone import QuickBackbone
from detrcli.resize import ShortestEdge

Some = Annotated[int, Bounds(0, 100_000)]
PICTURES_SEEN = 10_800
LARGEST = 256  # shorter side that is looked at, where pictures are larger
SMALL = 16  # pixels of the input, two cells: what is smaller is found better in a larger input ...
ENLARGED = 1.25  # ... which is larger by no more than this, since time grows with its square
BIAS = -3.5  # of the class heads: every class begins with 0.03


@dataclass(frozen=True)
class QuickConfig(ModelConfig):
    """What the small members that sample points have in common."""

    norm: Literal["batch", "group"] = "batch"
    width: Width = 32  # channels after the first convolution; the features have four times as many
    blocks: Layers = 2  # of the backbone
    encoder_layers: Layers = 1
    decoder_layers: Layers = 2
    dim: Width = 128
    heads: Width = 4
    points: Count = 4  # that a head samples
    feed_forward: Width = 256
    dropout: Share = 0.0
    queries: Count = 30
    classes: Count = 5  # those of `shapes`
    anchor: Weight = 3.0  # side of a proposal before it is corrected, in cells of 8 pixels

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.dim, self.heads)
        check_pyramid(1, self.dim)


@dataclass(frozen=True)
class DINOTinyConfig(QuickConfig):
    """All numbers of the model."""

    encoder_layers: Layers = 0
    denoising: Some = 20  # positive queries of the picture of most objects; 0: none
    label_noise: Share = 0.5
    box_noise: Weight = 0.4


def build(config: DINOTinyConfig, *, finer: bool = False) -> DINO:
    """The network, with its random start; with `finer` its backbone gives a mask head finer maps too."""
    c = config
    backbone = QuickBackbone(c.width, c.blocks, norm=NORMS[c.norm], finer=finer)
    shape = (c.dim, c.heads, 1, c.points, c.feed_forward, c.dropout)
    rows = Sigmoid().num_logits(c.classes)
    model = DINO(
        backbone=backbone,
        pyramid=PyramidInput(backbone.channels[-1:], 1, c.dim, SinePosition(c.dim, temperature=20)),
        encoder=DeformableEncoder(c.encoder_layers, *shape),
        layers=[DeformableDecoderLayer(*shape) for _ in range(c.decoder_layers)],
        selection=PureSelection(c.queries, c.dim, rows, cells=c.anchor),
        denoising=denoising_of(c) if c.denoising else None,
        dim=c.dim,
        rows=rows,
    )
    for head in (model.class_head, model.selection.proposer.class_head):
        nn.init.constant_(head.bias, BIAS)
    return model


def _class_rows(config: DINOTinyConfig) -> Mapping[str, Tensor]:
    rows = label_rows(config.dim, config.classes) if config.denoising else {}
    return rows | focal_rows(CLASS_HEADS, config.dim, config.classes, BIAS)


def recipe(_config: QuickConfig, facts: DataFacts) -> Mapping[str, Any]:
    """What learned best on sets of 60 to 600 small pictures, in minutes on two cores."""
    batch_size = max(4, min(16, facts.pictures // 4))
    epochs = max(12, min(150, round(PICTURES_SEEN / facts.pictures)))
    steps = epochs * (facts.pictures // batch_size)
    side = min(LARGEST, facts.shorter)
    small = max(1, facts.small * side / facts.shorter)  # pixels of the input, if it is of that size
    enlarged = side * min(ENLARGED, max(1, SMALL / small))
    return {
        "size": max(64, 8 * round(enlarged / 8)),
        "queries": max(30, 10 * -(-2 * facts.objects // 10)),
        "batch_size": batch_size,
        "epochs": epochs,
        "lr": 3e-3 * (batch_size / 16) ** 0.5,
        "schedule": "cosine",
        "warmup": steps // 20,
        "weight_decay": 0.05,
        "weight_decay_on": "matrices",
        "beta2": 0.99,
        "grad_clip": 1.0,
        "ema": 0.998,
        "augmentation": "strong",
        "eval_every": max(1, epochs // 6),
    }


ARCHITECTURE = Architecture(
    name="dino-tiny",
    config=DINOTinyConfig,
    presets={"dino-tiny": DINOTinyConfig()},
    build=build,
    scoring=lambda config: Sigmoid(top_k=100),
    make_loss=lambda config, loss: class_and_boxes(Sigmoid(top_k=100), loss, quality_class_loss),
    inspect=SampledInspectable,
    preprocessing=Preprocessing(ShortestEdge(128, 213)),
    class_rows=_class_rows,
    query_rows=lambda c: {},
    loss=FOCAL,
    recipe=recipe,
)
