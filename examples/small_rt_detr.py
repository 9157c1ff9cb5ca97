"""Write a small RT-DETR with random weights as a transformers folder, to be trained from scratch on a CPU.

    python examples/small_rt_detr.py start
    detr train shapes --weights start --epochs 24 --batch-size 16 --lr 1e-3 --set lr_backbone=1e-3 --set freeze=none \
        --set schedule=cosine --set warmup=100 --set grad_clip=1 --set ema=0.998 --set augmentation=strong \
        --set workers=0
    detr visualize-attn img.jpg --weights runs/train --layer all

`detr guide families` lists the result.
"""

import sys

import torch
from transformers import AutoModelForObjectDetection, RTDetrConfig, RTDetrImageProcessor, RTDetrResNetConfig

SIDE = 128  # input size
CLASSES = ("circle", "square", "triangle", "star", "cross")
CHANNELS = [64, 96, 128]  # of the backbone's last three stages


def config() -> RTDetrConfig:
    """Return a config with all parts of the large model and 1.5 million parameters."""
    backbone = RTDetrResNetConfig(
        embedding_size=32,
        hidden_sizes=[32, *CHANNELS],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    return RTDetrConfig(
        backbone_config=backbone,
        freeze_backbone_batch_norms=False,  # random weights need to learn the statistics
        encoder_in_channels=CHANNELS,
        encoder_hidden_dim=96,
        encoder_ffn_dim=192,
        encoder_attention_heads=4,
        hidden_expansion=0.5,
        d_model=96,
        decoder_in_channels=[96, 96, 96],
        decoder_ffn_dim=192,
        decoder_layers=2,
        decoder_attention_heads=4,
        num_queries=30,
        num_denoising=20,
        id2label=dict(enumerate(CLASSES)),
    )


def main(folder: str) -> None:
    torch.manual_seed(0)
    AutoModelForObjectDetection.from_config(config()).save_pretrained(folder)
    RTDetrImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
