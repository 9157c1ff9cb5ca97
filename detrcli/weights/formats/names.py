"""How others name the tensors that we have."""

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Rule = tuple[str, str | Callable[[re.Match[str]], str]]

# The published checkpoints'.
PUBLISHED: tuple[Rule, ...] = (
    (r"^module\.", ""),  # left by DistributedDataParallel
    (r"^backbone\.0\.body\.", "backbone.body."),
    (r"^backbone\.1\.row_embed\.", "position.rows."),
    (r"^backbone\.1\.col_embed\.", "position.columns."),
    (r"^input_proj\.", "projection."),
    (r"^transformer\.", ""),
    (r"\.self_attn\.", ".self_attention."),
    (r"\.multihead_attn\.", ".cross_attention."),
    (r"\.(linear\d)\.", r".feed_forward.\1."),
    (r"\.norm(\d)\.", r".add_norm\1.norm."),
    (r"^query_embed\.", "queries."),
    (r"^class_embed\.", "class_head."),
    (r"^bbox_embed\.", "box_head."),
)


def _of_stage(match: re.Match[str]) -> str:
    stage, block, part = match[1], match[2], match[3]
    return f"backbone.body.layer{int(stage) + 1}.{block}.{part}"


def _of_block(match: re.Match[str]) -> str:
    kind = {"convolution": "conv", "normalization": "bn"}[match[2]]
    return f".{kind}{int(match[1]) + 1}."


# Those of transformers 4 and 5, on disk and in memory, over timm's ResNet or transformers' own.
HUGGING_FACE: tuple[Rule, ...] = (
    (r"^model\.backbone\.(conv_encoder\.)?model\.", "backbone.body."),
    (r"^backbone\.body\.embedder\.embedder\.convolution\.", "backbone.body.conv1."),
    (r"^backbone\.body\.embedder\.embedder\.normalization\.", "backbone.body.bn1."),
    (r"^backbone\.body\.encoder\.stages\.(\d+)\.layers\.(\d+)\.(.*)", _of_stage),
    (r"\.layer\.(\d)\.(convolution|normalization)\.", _of_block),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.normalization\.", ".downsample.1."),
    (r"^model\.(backbone\.)?position_embedding\.row_embeddings\.", "position.rows."),
    (r"^model\.(backbone\.)?position_embedding\.column_embeddings\.", "position.columns."),
    (r"^model\.input_projection\.", "projection."),
    (r"^model\.query_position_embeddings\.", "queries."),
    (r"^model\.(encoder|decoder)\.", r"\1."),
    (r"^decoder\.layernorm\.", "decoder.norm."),
    (r"\.self_attn_layer_norm\.", ".add_norm1.norm."),
    (r"\.encoder_attn_layer_norm\.", ".add_norm2.norm."),
    (r"^(encoder\.layers\.\d+)\.final_layer_norm\.", r"\1.add_norm2.norm."),
    (r"^(decoder\.layers\.\d+)\.final_layer_norm\.", r"\1.add_norm3.norm."),
    (r"\.self_attn\.", ".self_attention."),
    (r"\.encoder_attn\.", ".cross_attention."),
    (r"\.o_proj\.", ".out_proj."),
    (r"\.(mlp\.)?fc([12])\.", r".feed_forward.linear\2."),
    (r"^class_labels_classifier\.", "class_head."),
    (r"^bbox_predictor\.", "box_head."),
)


def rename(name: str, rules: tuple[Rule, ...]) -> str:
    """Our name of a tensor that others name by these rules, which apply one after the other."""
    for theirs, ours in rules:
        name = re.sub(theirs, ours, name)
    return name


def join_projections(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Query, key and value projections that are stored apart, as the one tensor that attention holds."""
    joined: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        apart = re.fullmatch(r"(.*)\.([qkv])_proj\.(weight|bias)", name)
        if not apart:
            joined[name] = tensor
        elif apart[2] == "q":
            three = [tensors.get(f"{apart[1]}.{part}_proj.{apart[3]}") for part in "qkv"]
            joined[f"{apart[1]}.in_proj_{apart[3]}"] = torch.cat([part for part in three if part is not None])
    return joined
