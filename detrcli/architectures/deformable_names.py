"""How the published training scripts of Deformable DETR and DINO name and keep their tensors."""

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from detrcli.architectures.architecture import StateDictAdapter
from detrcli.architectures.detr_names import BACKBONES, COUNTER, Rule, count, inferred, rename
from detrcli.errors import DetrError

if TYPE_CHECKING:
    from detrcli.architectures.deformable_detr import DeformableConfig
    from detrcli.architectures.dino import DINOConfig


def _other_order(match: re.Match[str]) -> str:
    """A decoder layer's first norm follows its cross-attention there, which is its second sublayer."""
    return f"{match[1]}.add_norm{ {'1': '2', '2': '1', '3': '3'}[match[2]] }.norm."


LAYERS: tuple[Rule, ...] = (
    (r"^module\.", ""),  # left by DistributedDataParallel
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
    (r"^(decoder\.\d+)\.norm(\d)\.", _other_order),
)
DEFORMABLE: tuple[Rule, ...] = (
    *LAYERS,
    (r"^transformer\.decoder\.(class|bbox)_embed\.", r"\1_embed."),  # the same heads once more
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
    # One head of each kind, there under the number of every layer, and once more in the decoder.
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
    """Our name of a tensor of Deformable DETR among these; None for one that stands there twice."""
    ours = rename(name, DEFORMABLE)
    head = re.match(r"(class|box)_heads\.(\d+)\.(.*)", ours)
    if head is None:
        return ours
    refine = any("decoder.bbox_embed." in other for other in names)
    if not refine:
        return ours if head[2] == "0" else None
    layers = count(r"(?:module\.)?transformer\.decoder\.layers\.(\d+)\.", names)
    # The last one is the encoder's, where there are two stages.
    return f"queries.proposer.{head[1]}_head.{head[3]}" if int(head[2]) == layers else ours


def deformable_detr(config: "type[DeformableConfig]") -> "StateDictAdapter[DeformableConfig]":
    """A state dict of the published training script, with that script's args."""

    def names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        renamed = ((deformable_name(name, tensors.keys()), tensor) for name, tensor in tensors.items())
        return {name: tensor for name, tensor in renamed if name and not name.endswith(COUNTER)}

    def infer(
        source: str, tensors: Mapping[str, Tensor], args: Mapping[str, Any], wanted: "DeformableConfig | None"
    ) -> "DeformableConfig":
        if wanted is not None:
            dilated = wanted.dilated
        else:
            dilated = bool(args.get("dilation", "dc5" in str(args.get("file", "")).lower()))

        def make() -> "DeformableConfig":
            learned = tensors.get("queries.embedding.weight")
            proposals = tensors.get("queries.proposer.class_head.weight")
            return config(
                **_shared(tensors, args, config.heads),
                dilated=dilated,
                dropout=args.get("dropout", config.dropout),
                refine="box_heads.1.layers.0.weight" in tensors,
                two_stage=proposals is not None,
                queries=len(learned)
                if learned is not None
                else args.get("two_stage_num_proposals", args.get("num_queries", config.queries)),
                classes=len(tensors["class_heads.0.weight"]),
                proposal_rows=config.proposal_rows if proposals is None else len(proposals),
            )

        return inferred(source, tensors, "Deformable DETR", make)

    def known(names: Collection[str]) -> bool:
        return _is_deformable(names) and not _is_dino(names)

    return StateDictAdapter(known, names, infer)


def dino(config: "type[DINOConfig]") -> "StateDictAdapter[DINOConfig]":
    """The same of DINO."""

    def names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {rename(name, DINO): tensor for name, tensor in tensors.items() if not name.endswith(COUNTER)}

    def infer(
        source: str, tensors: Mapping[str, Tensor], args: Mapping[str, Any], wanted: "DINOConfig | None"
    ) -> "DINOConfig":
        def make() -> "DINOConfig":
            return config(
                **_shared(tensors, args, config.heads),
                dropout=args.get("dropout", config.dropout),
                queries=len(tensors["selection.contents"]),
                classes=len(tensors["class_head.weight"]),
            )

        return inferred(source, tensors, "DINO", make)

    return StateDictAdapter(lambda names: _is_deformable(names) and _is_dino(names), names, infer)


def _is_deformable(names: Collection[str]) -> bool:
    return any(name.endswith("transformer.encoder.layers.0.self_attn.sampling_offsets.weight") for name in names)


def _is_dino(names: Collection[str]) -> bool:
    return any(name.endswith("label_enc.weight") for name in names)


def _shared(tensors: Mapping[str, Tensor], args: Mapping[str, Any], heads: int) -> dict[str, Any]:
    """What both members have, read off the tensors; only the heads' number has to be told."""
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
