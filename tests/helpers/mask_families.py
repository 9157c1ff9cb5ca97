"""Small models that classify masks, with random weights, in folders as transformers writes them."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from families import CLASSES, root
from transformers import AutoModelForUniversalSegmentation

NAMES = ["mask2former", "maskformer"]
QUERIES = 16
# Random starts, and factors of some parts, with which scores differ and masks are parts of the picture.
SEEDS = {"mask2former": 3, "maskformer": 2}
LIVELY = {
    "mask2former": {"class_predictor.weight": 4.0, "queries_features": 3.0, "mask_embedder.2.0.weight": 6.0},
    "maskformer": {"class_predictor.weight": 3.0, "queries_embedder": 8.0, "encoder_attn.": 4.0, "mask_embedder": 4.0},
}


def _config(name: str) -> Any:
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
    """The family's processor, for small pictures."""
    made = {"mask2former": transformers.Mask2FormerImageProcessor, "maskformer": transformers.MaskFormerImageProcessor}[
        name
    ]
    return made(**{"size": {"shortest_edge": 60, "longest_edge": 100}, **changes})


@cache
def folder_of(name: str) -> Path:
    """A folder with model and processor. All numbers are moved, so that queries predict different things."""
    torch.manual_seed(SEEDS[name])
    network = AutoModelForUniversalSegmentation.from_config(_config(name))
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if parameter.dim() > 0:
                parameter.add_(0.1 * torch.randn_like(parameter))
            parameter.mul_(next((factor for part, factor in LIVELY[name].items() if part in key), 1.0))
    folder = root() / name
    network.save_pretrained(folder)
    processor_of(name).save_pretrained(folder)
    return folder
