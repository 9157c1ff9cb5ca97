"""Deformable DETR as published (arXiv 2010.04159), and its tensor names in the published checkpoints."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from detrcli.architectures.architecture import DataFacts
from detrcli.architectures.common import FocalArchitecture, ResNetConfig, make_resnet
from detrcli.architectures.detr import COUNTER, RenamingAdapter, Rule, count, is_dilated, rename, shared_fields
from detrcli.config import Count, Width
from detrcli.errors import DetrError, UsageError
from detrcli.model.deformable_detr import DeformableDETR, LearnedQueries, ProposedQueries
from detrcli.model.position import SinePosition

# From published tensor names to ours; shared with DINO.
SHARED_RULES: tuple[Rule, ...] = (
    (r"^module\.", ""),  # from DistributedDataParallel
    (r"^backbone\.0\.body\.", "backbone.body."),
    (r"^input_proj\.", "pyramid.projections."),
    (r"^transformer\.level_embed$", "pyramid.level_codes"),
    (r"^transformer\.encoder\.", "encoder."),
    (r"^transformer\.decoder\.layers\.", "decoder."),
    (r"\.self_attn\.", ".self_attention."),
    (r"\.cross_attn\.", ".cross_attention."),
    (r"\.(value|output)_proj\.", r".\1_projection."),
    (r"^((?:encoder\.layers|decoder)\.\d+)\.(linear\d)\.", r"\1.feed_forward.\2."),
    (r"^(encoder\.layers\.\d+)\.norm(\d)\.", r"\1.add_norm\2.norm."),
    # In a published decoder layer norm1 follows cross-attention, the second sublayer, and norm2 self-attention.
    (r"^(decoder\.\d+)\.norm1\.", r"\1.add_norm2.norm."),
    (r"^(decoder\.\d+)\.norm2\.", r"\1.add_norm1.norm."),
    (r"^(decoder\.\d+)\.norm3\.", r"\1.add_norm3.norm."),
)
RULES: tuple[Rule, ...] = (
    *SHARED_RULES,
    (r"^transformer\.decoder\.(class|bbox)_embed\.", r"\1_embed."),  # the same heads again
    (r"^class_embed\.", "class_heads."),
    (r"^bbox_embed\.", "box_heads."),
    (r"^query_embed\.", "queries.embedding."),
    (r"^transformer\.reference_points\.", "queries.reference."),
    (r"^transformer\.enc_output\.", "queries.proposer.input.linear."),
    (r"^transformer\.enc_output_norm\.", "queries.proposer.input.norm."),
    (r"^transformer\.pos_trans\.", "queries.linear."),
    (r"^transformer\.pos_trans_norm\.", "queries.norm."),
)


@dataclass(frozen=True)
class PyramidConfig(ResNetConfig):
    """The config fields that Deformable DETR and DINO share."""

    levels: Count = 4
    points: Count = 4  # sampled by each head on each level
    dim_multiple = 32  # for group norm with 32 groups

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels > 6:
            raise UsageError(f"levels = {self.levels}: must be at most 6.")


@dataclass(frozen=True)
class DeformableConfig(PyramidConfig):
    """The config of Deformable DETR. With a single level it uses the last stage of the backbone alone."""

    dilated: bool = False  # DC5: the last stage keeps its resolution
    refine: bool = False  # iterative box refinement
    two_stage: bool = False  # reference boxes from proposals of the encoder
    feed_forward: Width = 1024
    queries: Count = 300
    proposal_rows: Count = 91  # logits of the proposals' class head; all but the first are unused

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.two_stage and not self.refine:
            raise UsageError("two_stage: needs refine, which starts at the boxes of the proposals.")


def deformable_name(name: str, names: Collection[str]) -> str | None:
    """Return our name for one of the tensors `names` of Deformable DETR; None for a duplicate."""
    ours = rename(name, RULES)
    head = re.match(r"(class|box)_heads\.(\d+)\.(.*)", ours)
    if head is None:
        return ours
    if not any("decoder.bbox_embed." in other for other in names):  # without box refinement all layers share a head
        return ours if head[2] == "0" else None
    layers = count(r"(?:module\.)?transformer\.decoder\.layers\.(\d+)\.", names)
    # With two stages, the encoder's head follows those of the layers.
    return f"queries.proposer.{head[1]}_head.{head[3]}" if int(head[2]) == layers else ours


class PublishedDeformable(RenamingAdapter):
    model = "Deformable DETR"
    mark = "transformer.encoder.layers.0.self_attn.sampling_offsets.weight"

    def rename(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        pairs = ((deformable_name(name, tensors.keys()), tensor) for name, tensor in tensors.items())
        return {name: tensor for name, tensor in pairs if name and not name.endswith(COUNTER)}

    def fields(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], wanted: Any) -> dict[str, Any]:
        config, learned = self.config, tensors.get("queries.embedding.weight")
        proposals = tensors.get("queries.proposer.class_head.weight")
        queries = facts.get("two_stage_num_proposals", facts.get("num_queries", config.queries))
        return {
            **deformable_fields(tensors, facts, config),
            "dilated": is_dilated(facts, wanted),
            "refine": "box_heads.1.layers.0.weight" in tensors,
            "two_stage": proposals is not None,
            "queries": queries if learned is None else len(learned),
            "classes": len(tensors["class_heads.0.weight"]),
            "proposal_rows": config.proposal_rows if proposals is None else len(proposals),
        }


def deformable_fields(tensors: Mapping[str, Tensor], args: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Return the fields of `PyramidConfig`. The tensors determine all but dropout and the number of heads."""
    heads = args.get("nheads", config.heads)
    levels = count(r"pyramid\.projections\.(\d+)\.", tensors)
    weights = len(tensors["encoder.layers.0.self_attention.attention_weights.weight"])  # per query
    if not isinstance(heads, int) or heads < 1 or weights % (heads * levels):
        raise DetrError(f"{heads!r} attention heads do not divide {weights} attention weights.")
    return {
        **shared_fields(tensors),
        "levels": levels,
        "decoder_layers": count(r"decoder\.(\d+)\.", tensors),
        "dim": tensors["pyramid.level_codes"].shape[1],
        "heads": heads,
        "points": weights // (heads * levels),
        "dropout": args.get("dropout", config.dropout),
    }


class DeformableArchitecture(FocalArchitecture[DeformableConfig]):
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
        parts = self.parts(c, backbone, position, maps=1 if c.levels == 1 else 3, levels=c.levels)
        return DeformableDETR(**parts, queries=queries, layers=self.decoder_layers(c, c.levels), refine=c.refine)

    def recipe(self, config: DeformableConfig, facts: DataFacts) -> Mapping[str, Any]:
        return {"lr": 2e-4}

    def summary(self, config: DeformableConfig) -> str:
        c, levels = config, f"{config.levels} level" + "s" * (config.levels > 1)
        parts = (c.backbone, "dilated" * c.dilated, "refine" * c.refine, "two stages" * c.two_stage, levels)
        return ", ".join(filter(None, parts))


ARCHITECTURE = DeformableArchitecture()
