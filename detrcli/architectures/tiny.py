"""Small models that learn small images from scratch on a CPU within minutes.

detr-tiny is a DETR with iterative box refinement, dino-tiny the model to start with on new data, and deformable-tiny a
Deformable DETR (two stages, box refinement) for comparison. The last two attend to a single level.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from torch import nn

from detrcli.architectures.architecture import DataFacts
from detrcli.architectures.common import (
    FocalArchitecture,
    SoftmaxArchitecture,
    TransformerConfig,
    set_prediction_loss,
)
from detrcli.architectures.dino import make_denoising
from detrcli.config import Bounds, Count, Layers, LossConfig, Preprocessing, Share, Weight, Width
from detrcli.losses.criterion import Criterion
from detrcli.losses.terms import quality_class_loss
from detrcli.model.backbone import Norm, QuickBackbone, TinyBackbone
from detrcli.model.deformable_detr import DeformableDETR, ProposedQueries
from detrcli.model.dino import DINO
from detrcli.model.position import SinePosition
from detrcli.model.proposals import PureSelection
from detrcli.model.refinement import IterativeRefinementDETR
from detrcli.model.transformer import Decoder, Encoder
from detrcli.resize import ShortestEdge

SMALL_IMAGES = Preprocessing(ShortestEdge(128, 213))
# 8 groups, since not all numbers of channels are divisible by 32.
NORMS: dict[str, Norm] = {"batch": nn.BatchNorm2d, "group": partial(nn.GroupNorm, 8)}

# Constants of the recipe of dino-tiny and deformable-tiny.
IMAGES_SEEN = 10_800  # number of images times number of epochs
LARGEST = 256  # maximum shorter side of the input in pixels, before it is enlarged for small objects
SMALL = 16  # pixels, two feature cells: the input is enlarged if objects are smaller ...
ENLARGED = 1.25  # ... but at most by this factor, since the time grows with its square
CLASS_BIAS = -3.5  # initially, dino-tiny predicts each class with a probability of 0.03


@dataclass(frozen=True)
class TinyConfig(TransformerConfig):
    norm: Literal["batch", "group"] = "batch"  # not frozen: the backbone has no pretrained weights
    width: Width = 24  # channels after the first convolution, a quarter of those of the last map
    encoder_layers: Layers = 2
    decoder_layers: Layers = 3
    dim: Width = 128
    heads: Width = 4  # narrower heads are slow on a CPU
    feed_forward: Width = 512
    dropout: Share = 0.0
    queries: Count = 25
    classes: Count = 5  # of `shapes`


class TinyArchitecture(SoftmaxArchitecture[TinyConfig]):
    name = "detr-tiny"
    config = TinyConfig
    presets: Mapping[str, TinyConfig] = {"detr-tiny": TinyConfig()}
    preprocessing = SMALL_IMAGES

    def build(self, config: TinyConfig) -> IterativeRefinementDETR:
        c = config
        return IterativeRefinementDETR(
            backbone=TinyBackbone(c.width, norm=NORMS[c.norm]),
            position=SinePosition(c.dim, temperature=20, turns=4),  # distinguishes neighboring cells
            encoder=Encoder(c.encoder_layers, c.dim, c.heads, c.feed_forward, c.dropout, pre_norm=False),
            decoder=Decoder(c.decoder_layers, c.dim, c.heads, c.feed_forward, c.dropout, pre_norm=False),
            dim=c.dim,
            queries=c.queries,
            rows=self.scoring(c).num_logits(c.classes),
        )


@dataclass(frozen=True)
class DeformableTinyConfig(TinyConfig):
    """The settings of deformable-tiny, most of which dino-tiny shares."""

    width: Width = 32
    blocks: Layers = 2  # of the backbone
    encoder_layers: Layers = 1
    decoder_layers: Layers = 2
    points: Count = 4  # sampled by each head
    feed_forward: Width = 256
    queries: Count = 30
    anchor: Weight = 3.0  # side of a proposal before its refinement, in cells of 8 pixels
    dim_multiple = 32  # required by the group norms


@dataclass(frozen=True)
class DINOTinyConfig(DeformableTinyConfig):
    encoder_layers: Layers = 0
    # Number of positive denoising queries for the image with the most objects; 0: no denoising.
    denoising: Annotated[int, Bounds(0, 100_000)] = 20
    label_noise: Share = 0.5
    box_noise: Weight = 0.4


D = TypeVar("D", bound=DeformableTinyConfig)


class SingleLevelArchitecture(FocalArchitecture[D]):
    """A small model with deformable attention on a single level, trained by a recipe that depends on the data."""

    preprocessing = SMALL_IMAGES
    recipe_uses_data = True

    def single_level_parts(self, config: D) -> dict[str, Any]:
        backbone = QuickBackbone(config.width, config.blocks, norm=NORMS[config.norm])
        return self.parts(config, backbone, SinePosition(config.dim, temperature=20))

    def recipe(self, config: D, facts: DataFacts) -> Mapping[str, Any]:
        """Return the settings that learned best on 60 to 600 small images, in minutes on two cores."""
        batch_size = max(4, min(16, facts.images // 4))
        epochs = max(12, min(150, round(IMAGES_SEEN / facts.images)))
        steps = epochs * (facts.images // batch_size)
        side = min(LARGEST, facts.shorter)
        small = max(1, facts.small * side / facts.shorter)  # in pixels of an input of this side
        enlarged = side * min(ENLARGED, max(1, SMALL / small))
        return {
            "size": max(64, 8 * round(enlarged / 8)),
            "queries": max(30, 10 * -(-2 * facts.objects // 10)),  # two per object, rounded up to tens
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


class DINOTinyArchitecture(SingleLevelArchitecture[DINOTinyConfig]):
    name = "dino-tiny"
    config = DINOTinyConfig
    presets: Mapping[str, DINOTinyConfig] = {"dino-tiny": DINOTinyConfig()}

    def build(self, config: DINOTinyConfig) -> DINO:
        c, parts = config, self.single_level_parts(config)
        model = DINO(
            **parts,
            layers=self.decoder_layers(c),
            selection=PureSelection(c.queries, c.dim, parts["rows"], cells=c.anchor),
            denoising=make_denoising(c) if c.denoising else None,
        )
        for head in (model.class_head, model.selection.proposer.class_head):
            nn.init.constant_(head.bias, CLASS_BIAS)
        return model

    def make_loss(self, config: DINOTinyConfig, loss: LossConfig) -> Criterion:
        return set_prediction_loss(self.scoring(config), loss, quality_class_loss)


class DeformableTinyArchitecture(SingleLevelArchitecture[DeformableTinyConfig]):
    name = "deformable-tiny"
    config = DeformableTinyConfig
    presets: Mapping[str, DeformableTinyConfig] = {"deformable-tiny": DeformableTinyConfig()}

    def build(self, config: DeformableTinyConfig) -> DeformableDETR:
        return DeformableDETR(
            **self.single_level_parts(config),
            queries=ProposedQueries(config.queries, config.dim, rows=1, cells=config.anchor),  # class-agnostic
            layers=self.decoder_layers(config),
            refine=True,
        )


DETR_TINY, DINO_TINY, DEFORMABLE_TINY = TinyArchitecture(), DINOTinyArchitecture(), DeformableTinyArchitecture()
