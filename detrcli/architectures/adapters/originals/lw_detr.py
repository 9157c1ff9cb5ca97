"""Checkpoints of LW-DETR (github.com/Atten4Vis/LW-DETR)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from detrcli.architectures.adapters.originals.conversion import Converted, Repository, Rules, count, rename, shape

BLOCKS = "backbone.0.encoder.blocks."
SIZE = {"height": 640, "width": 640}
# By the number of blocks: those with windowed attention, and those after which features are taken.
WINDOWS = {6: (0, 2, 4), 10: (0, 1, 3, 6, 7, 9)}
FEATURES = {6: (1, 3, 5), 10: (2, 4, 5, 9)}

RULES: Rules = (
    (r"^(transformer\.decoder\.layers\.\d+)\.norm1\.", r"\1.self_attn_layer_norm."),
    (r"^(transformer\.decoder\.layers\.\d+)\.norm2\.", r"\1.cross_attn_layer_norm."),
    (r"^(transformer\.decoder\.layers\.\d+)\.norm3\.", r"\1.layer_norm."),
    (r"^(transformer\.decoder\.layers\.\d+)\.linear(\d)\.", r"\1.mlp.fc\2."),
    (r"\.self_attn\.out_proj\.", ".self_attn.o_proj."),
    (r"^transformer\.decoder\.norm\.", "model.decoder.layernorm."),
    (r"^transformer\.", "model."),
    (r"^refpoint_embed\.", "model.reference_point_embed."),
    (r"^query_feat\.", "model.query_feat."),
    (r"^backbone\.0\.encoder\.pos_embed$", "model.backbone.backbone.embeddings.position_embeddings"),
    (r"^backbone\.0\.encoder\.patch_embed\.proj\.", "model.backbone.backbone.embeddings.projection."),
    (r"^backbone\.0\.encoder\.blocks\.(\d+)\.norm1\.", r"model.backbone.backbone.encoder.layer.\1.layernorm_before."),
    (r"^backbone\.0\.encoder\.blocks\.(\d+)\.norm2\.", r"model.backbone.backbone.encoder.layer.\1.layernorm_after."),
    (r"^backbone\.0\.encoder\.blocks\.(\d+)\.mlp\.", r"model.backbone.backbone.encoder.layer.\1.intermediate."),
    (r"^backbone\.0\.encoder\.blocks\.(\d+)\.", r"model.backbone.backbone.encoder.layer.\1."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.attn\.([qv])_bias$", r".attention.\1_proj.bias"),
    (r"\.attn\.qkv\.", ".attention.qkv."),
    (r"^backbone\.0\.projector\.stages\.(\d+)\.0\.", r"model.backbone.projector.scale_layers.\1.projector_layer."),
    (r"^backbone\.0\.projector\.stages\.(\d+)\.1\.", r"model.backbone.projector.scale_layers.\1.layer_norm."),
    (
        r"^backbone\.0\.projector\.stages_sampling\.(\d+)\.(\d+)\.",
        r"model.backbone.projector.scale_layers.\1.sampling_layers.\2.layers.",
    ),
    (r"\.m\.(\d+)\.", r".bottlenecks.\1."),
    (r"\.cv(\d)\.", r".conv\1."),
    (r"\.bn\.", ".norm."),
)


class LwDetr(Repository):
    """LW-DETR."""

    mark = BLOCKS
    states = ("ema_model", "model")

    def convert(self, tensors: Mapping[str, Tensor], content: Mapping[str, Any], file: str, source: str) -> Converted:
        """Convert a checkpoint, whose config follows from the shapes."""
        rows, width = shape(tensors, "class_embed.weight", source)
        blocks = count(tensors, r"backbone\.0\.encoder\.blocks\.(\d+)\.")
        hidden, _, patch, _ = shape(tensors, "backbone.0.encoder.patch_embed.proj.weight", source)
        groups = count(tensors, r"transformer\.enc_output\.(\d+)\.")
        large = width == 384  # large and xlarge: two levels, and more heads
        queries = shape(tensors, "refpoint_embed.weight", source)[0] // max(groups, 1)
        config = {
            "d_model": width,
            "decoder_layers": count(tensors, r"transformer\.decoder\.layers\.(\d+)\."),
            "decoder_self_attention_heads": 12 if large else 8,
            "decoder_cross_attention_heads": 24 if large else 16,
            "decoder_n_points": 4 if large else 2,
            "decoder_ffn_dim": shape(tensors, "transformer.decoder.layers.0.linear1.weight", source)[0],
            "num_queries": queries,
            "num_select": queries,
            "group_detr": groups,
            "num_labels": rows,
            "dropout": 0.0,
            "projector_scale_factors": [2.0, 0.5] if large else [1.0],
            "backbone_config": {
                "model_type": "lw_detr_vit",
                "hidden_size": hidden,
                "num_hidden_layers": blocks,
                "num_attention_heads": 12,
                "patch_size": patch,
                "window_block_indices": list(WINDOWS.get(blocks, ())),
                "out_indices": [block + 1 for block in FEATURES.get(blocks, ())],
            },
        }
        return Converted("lw_detr", "LwDetrForObjectDetection", config, rename(tensors, RULES), {"size": SIZE})
