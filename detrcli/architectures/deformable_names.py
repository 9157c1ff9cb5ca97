"""Tensor names of Deformable DETR and DINO in the checkpoints of their published training scripts."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from detrcli.architectures.detr_names import (
    BACKBONES,
    COUNTER,
    RenamingAdapter,
    Rule,
    count,
    inferring,
    is_dilated,
    rename,
)
from detrcli.errors import DetrError

LAYERS: tuple[Rule, ...] = (
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
DEFORMABLE: tuple[Rule, ...] = (
    *LAYERS,
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
DINO: tuple[Rule, ...] = (
    *LAYERS,
    # A head that all layers share, listed for each of them, and again in the decoder.
    (r"^(transformer\.decoder\.)?class_embed\.\d+\.", "class_head."),
    (r"^(transformer\.decoder\.)?bbox_embed\.\d+\.", "box_head."),
    (r"^transformer\.decoder\.norm\.", "norm."),
    (r"^transformer\.decoder\.ref_point_head\.layers\.0\.", "place.0."),
    (r"^transformer\.decoder\.ref_point_head\.layers\.1\.", "place.2."),
    (r"^transformer\.tgt_embed\.weight$", "selection.contents"),
    (r"^transformer\.enc_output\.", "selection.proposer.input.linear."),
    (r"^transformer\.enc_output_norm\.", "selection.proposer.input.norm."),
    (r"^transformer\.enc_out_class_embed\.", "selection.proposer.class_head."),
    (r"^transformer\.enc_out_bbox_embed\.", "selection.proposer.box_head."),
    (r"^label_enc\.", "denoising.label_contents."),
)


def deformable_name(name: str, names: Collection[str]) -> str | None:
    """Return our name of a tensor of Deformable DETR among `names`; None for a duplicate."""
    ours = rename(name, DEFORMABLE)
    head = re.match(r"(class|box)_heads\.(\d+)\.(.*)", ours)
    if head is None:
        return ours
    if not any("decoder.bbox_embed." in other for other in names):  # without box refinement all layers share a head
        return ours if head[2] == "0" else None
    layers = count(r"(?:module\.)?transformer\.decoder\.layers\.(\d+)\.", names)
    # With two stages, the encoder's head follows those of the layers.
    return f"queries.proposer.{head[1]}_head.{head[3]}" if int(head[2]) == layers else ours


class PublishedDeformable(RenamingAdapter):
    """State dicts of Deformable DETR's training script, with its arguments."""

    mark = "transformer.encoder.layers.0.self_attn.sampling_offsets.weight"

    def rename(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        pairs = ((deformable_name(name, tensors.keys()), tensor) for name, tensor in tensors.items())
        return {name: tensor for name, tensor in pairs if name and not name.endswith(COUNTER)}

    def infer(self, source: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], wanted: Any) -> Any:
        config, learned = self.config, tensors.get("queries.embedding.weight")
        proposals = tensors.get("queries.proposer.class_head.weight")
        queries = facts.get("two_stage_num_proposals", facts.get("num_queries", config.queries))
        with inferring(source, tensors, "Deformable DETR"):
            return config(
                **_shared_fields(tensors, facts, config.heads),
                dilated=is_dilated(facts, wanted),
                dropout=facts.get("dropout", config.dropout),
                refine="box_heads.1.layers.0.weight" in tensors,
                two_stage=proposals is not None,
                queries=queries if learned is None else len(learned),
                classes=len(tensors["class_heads.0.weight"]),
                proposal_rows=config.proposal_rows if proposals is None else len(proposals),
            )


class PublishedDINO(RenamingAdapter):
    """State dicts of DINO's training script, with its arguments."""

    mark = "label_enc.weight"
    rules = DINO

    def infer(self, source: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], wanted: Any) -> Any:
        with inferring(source, tensors, "DINO"):
            return self.config(
                **_shared_fields(tensors, facts, self.config.heads),
                dropout=facts.get("dropout", self.config.dropout),
                queries=len(tensors["selection.contents"]),
                classes=len(tensors["class_head.weight"]),
            )


def _shared_fields(tensors: Mapping[str, Tensor], args: Mapping[str, Any], heads: int) -> dict[str, Any]:
    """Return the config fields that both have. Tensors determine all but the number of heads."""
    heads = args.get("nheads", heads)
    levels = count(r"pyramid\.projections\.(\d+)\.", tensors)
    sampled = len(tensors["encoder.layers.0.self_attention.attention_weights.weight"])
    dim = tensors["pyramid.level_codes"].shape[1]
    if not isinstance(heads, int) or heads < 1 or dim % heads or sampled % (heads * levels):
        raise DetrError(f"{heads!r} attention heads do not divide {dim} dimensions and {sampled} weights.")
    return {
        "backbone": BACKBONES[count(r"backbone\.body\.layer3\.(\d+)\.conv3\.", tensors)],
        "levels": levels,
        "encoder_layers": count(r"encoder\.layers\.(\d+)\.", tensors),
        "decoder_layers": count(r"decoder\.(\d+)\.", tensors),
        "dim": dim,
        "heads": heads,
        "points": sampled // (heads * levels),
        "feed_forward": len(tensors["encoder.layers.0.feed_forward.linear1.weight"]),
    }
