"""Deformable DETR as published (arXiv 2010.04159)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detrcli.architectures.architecture import DataFacts
from detrcli.architectures.common import (
    FocalArchitecture,
    OnResNet,
    ResNetConfig,
    deformable_layers,
    deformable_parts,
    make_resnet,
)
from detrcli.architectures.deformable_names import PublishedDeformable
from detrcli.config import Count, Width
from detrcli.errors import UsageError
from detrcli.model.deformable_detr import DeformableDETR, LearnedQueries, ProposedQueries
from detrcli.model.position import SinePosition


@dataclass(frozen=True)
class PyramidConfig(ResNetConfig):
    """The settings that Deformable DETR and DINO share."""

    levels: Count = 4
    points: Count = 4  # sampled by each head on each level
    dim_multiple = 32  # by the group norms

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels > 6:
            raise UsageError(f"levels = {self.levels}: must be at most 6, where a cell is 512 pixels wide.")


@dataclass(frozen=True)
class DeformableConfig(PyramidConfig):
    """The settings of a Deformable DETR. With a single level it uses the last stage of the backbone alone."""

    dilated: bool = False  # DC5: the last stage keeps its resolution
    refine: bool = False  # iterative box refinement
    two_stage: bool = False  # reference boxes from proposals of the encoder
    feed_forward: Width = 1024
    queries: Count = 300
    proposal_rows: Count = 91  # of the proposals' class head; all but the first are unused

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.two_stage and not self.refine:
            raise UsageError("two_stage: needs refine, which starts at the boxes of the proposals.")


class DeformableArchitecture(OnResNet, FocalArchitecture[DeformableConfig]):
    name = "deformable-detr"
    config = DeformableConfig
    presets: Mapping[str, DeformableConfig] = {
        "deformable-detr-r50": DeformableConfig(),
        "deformable-detr-r50-refine": DeformableConfig(refine=True),
        "deformable-detr-r50-refine-two-stage": DeformableConfig(refine=True, two_stage=True),
        "deformable-detr-r50-single-scale": DeformableConfig(levels=1),
        "deformable-detr-r50-single-scale-dc5": DeformableConfig(levels=1, dilated=True),
    }
    published = PublishedDeformable(DeformableConfig)

    def build(self, config: DeformableConfig) -> DeformableDETR:
        c = config
        backbone, position = make_resnet(c, dilated=c.dilated), SinePosition(c.dim, centered=True)
        queries: LearnedQueries | ProposedQueries = (
            ProposedQueries(c.queries, c.dim, c.proposal_rows) if c.two_stage else LearnedQueries(c.queries, c.dim)
        )
        parts = deformable_parts(c, backbone, position, maps=1 if c.levels == 1 else 3, levels=c.levels)
        return DeformableDETR(**parts, queries=queries, layers=deformable_layers(c, c.levels), refine=c.refine)

    def recipe(self, config: DeformableConfig, facts: DataFacts) -> Mapping[str, Any]:
        return {"lr": 2e-4}

    def summary(self, config: DeformableConfig) -> str:
        c, levels = config, f"{config.levels} level" + "s" * (config.levels > 1)
        parts = (c.backbone, "dilated" * c.dilated, "refine" * c.refine, "two stages" * c.two_stage, levels)
        return ", ".join(filter(None, parts))


ARCHITECTURE = DeformableArchitecture()
