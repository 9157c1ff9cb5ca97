"""Small models that classify masks, with random weights, in the folders that transformers writes."""

from functools import cache
from pathlib import Path
from typing import Any

import transformers
from families import CLASSES, root, saved
from transformers import AutoModelForUniversalSegmentation

NAMES = ["mask2former", "maskformer"]
ENCODERS = ["eomt", "eomt-dinov3"]
QUERIES = 16
# Seeds, and scales of some weights, with which scores differ and masks cover a part of the image.
SEEDS = {"mask2former": 3, "maskformer": 2, "eomt": 5, "eomt-dinov3": 11}
LIVELY = {
    "mask2former": {"class_predictor.weight": 4.0, "queries_features": 3.0, "mask_embedder.2.0.weight": 6.0},
    "maskformer": {"class_predictor.weight": 3.0, "queries_embedder": 8.0, "encoder_attn.": 4.0, "mask_embedder": 4.0},
    **{name: {"class_predictor.weight": 6.0, "query.weight": 4.0, "mask_head": 2.0} for name in ENCODERS},
}


def _config(name: str) -> Any:
    if name in ENCODERS:
        kind, more = (
            (transformers.EomtConfig, {"mlp_ratio": 2}) if name == "eomt"
            else (transformers.EomtDinov3Config, {"intermediate_size": 64})
        )  # fmt: skip
        return kind(
            hidden_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=64, patch_size=8, num_blocks=2,
            num_upscale_blocks=1, num_queries=QUERIES, num_register_tokens=2, id2label=CLASSES, **more,
        )  # fmt: skip
    windows = transformers.SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, image_size=64,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    common = {"backbone_config": windows, "mask_feature_size": 32, "id2label": CLASSES}
    if name == "maskformer":
        decoder = transformers.DetrConfig(
            encoder_layers=1, decoder_layers=2, d_model=32, encoder_ffn_dim=32, decoder_ffn_dim=32,
            encoder_attention_heads=2, decoder_attention_heads=2, num_queries=QUERIES,
        )  # fmt: skip
        return transformers.MaskFormerConfig(**common, decoder_config=decoder, fpn_feature_size=32)
    return transformers.Mask2FormerConfig(
        **common, feature_size=32, hidden_dim=32, encoder_feedforward_dim=32, encoder_layers=1, decoder_layers=3,
        num_attention_heads=2, dim_feedforward=32, num_queries=QUERIES,
    )  # fmt: skip


def processor_of(name: str, **changes: Any) -> Any:
    lib = transformers
    if name in ENCODERS:
        return lib.EomtImageProcessor(**{"size": {"shortest_edge": 64, "longest_edge": 64}, "do_pad": True, **changes})
    kind = lib.Mask2FormerImageProcessor if name == "mask2former" else lib.MaskFormerImageProcessor
    return kind(**{"size": {"shortest_edge": 60, "longest_edge": 100}, **changes})


@cache
def folder_of(name: str) -> Path:
    kind = AutoModelForUniversalSegmentation
    return saved(root() / name, kind, _config(name), processor_of(name), SEEDS[name], LIVELY.get(name))
