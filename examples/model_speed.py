"""Measure the engines on modern detectors on a CPU, compared with the packages that the models come from.

    pip install 'detrcli[models,onnx,openvino,int8]' rfdetr
    OMP_WAIT_POLICY=PASSIVE python examples/model_speed.py [MODEL...] [--threads N] [--cpu-time] [--compiled]

One image as the input of the network, and random weights, which are as fast as trained ones. All engines alternate in
one process. `plain` is the network of transformers for its families, and ours for dino-tiny. RF-DETR nano is compared
with the package rfdetr, and RT-DETR R50 with ultralytics (AGPL-3.0, not required), where they are installed.
`--cpu-time` measures the processor time of the process instead of elapsed time, for machines with other work.
`--compiled` includes torch.compile, which compiles for minutes. INT8 ranges are calibrated on noise, for speed only.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import compared, in_turn, random_weights, show

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.load import load_checkpoint
from detrcli.errors import DetrError
from detrcli.inference.detector import Detector
from detrcli.inference.export import RUNTIMES, cached_export
from detrcli.reporter import SILENT
from detrcli.structures import Batch
from detrcli.system.allocator import keep_large_blocks

Way = Callable[[], Any]


def rt_detr(*depths: int, basic: bool, layers: int) -> dict[str, Any]:
    """Return the published config of RT-DETR with a ResNet."""
    sizes = [64, 128, 256, 512]
    backbone = {
        "model_type": "rt_detr_resnet", "depths": depths, "layer_type": "basic" if basic else "bottleneck",
        "hidden_sizes": sizes if basic else [4 * size for size in sizes],
        "out_features": ["stage2", "stage3", "stage4"],
    }  # fmt: skip
    small = {"encoder_in_channels": sizes[1:], "hidden_expansion": 0.5} if basic else {}
    return {"model_type": "rt_detr", "backbone_config": backbone, "decoder_layers": layers, "num_labels": 80, **small}


# Configs of transformers as published, with the processor and the side of the input.
MODELS: dict[str, tuple[dict[str, Any], str, int]] = {
    "rf-detr-nano": (
        {
            "model_type": "rf_detr", "d_model": 256, "decoder_layers": 2, "decoder_n_points": 2, "num_queries": 300,
            "layer_norm_eps": 1e-6, "decoder_ffn_dim": 2048, "num_labels": 91,
            "backbone_config": {
                "model_type": "rf_detr_dinov2", "hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6,
                "patch_size": 16, "num_windows": 2, "layer_norm_eps": 1e-6, "image_size": 384,
                "out_features": ["stage3", "stage6", "stage9", "stage12"],
            },
        },
        "RfDetrImageProcessor", 384,
    ),
    "d-fine-n": (
        {
            "model_type": "d_fine", "num_labels": 80, "num_feature_levels": 2, "decoder_n_points": [6, 6],
            "feat_strides": [16, 32], "encode_proj_layers": [1], "encoder_in_channels": [512, 1024],
            "decoder_in_channels": [128, 128], "encoder_hidden_dim": 128, "d_model": 128, "encoder_ffn_dim": 512,
            "decoder_ffn_dim": 512, "hidden_expansion": 0.34, "depth_mult": 0.5, "decoder_layers": 3,
            "backbone_config": {
                "model_type": "hgnet_v2", "stem_channels": [3, 16, 16], "stage_in_channels": [16, 64, 256, 512],
                "stage_mid_channels": [16, 32, 64, 128], "stage_out_channels": [64, 256, 512, 1024],
                "hidden_sizes": [64, 256, 512, 1024], "stage_num_blocks": [1, 1, 2, 1],
                "stage_numb_of_layers": [3, 3, 3, 3], "use_learnable_affine_block": True, "out_indices": [3, 4],
            },
        },
        "RTDetrImageProcessor", 640,
    ),
    "rt-detr-r18": (rt_detr(2, 2, 2, 2, basic=True, layers=3), "RTDetrImageProcessor", 640),
    "rt-detr-r50": (rt_detr(3, 4, 6, 3, basic=False, layers=6), "RTDetrImageProcessor", 640),
}  # fmt: skip


def checkpoint_of(name: str, folder: Path) -> Checkpoint:
    """Return a model with random weights."""
    if name not in MODELS:
        return random_weights(name)
    import transformers

    config, processor, side = MODELS[name]
    network = transformers.AutoModelForObjectDetection.from_config(transformers.AutoConfig.for_model(**config))
    with torch.no_grad():  # numbers with which scores differ, or exports would select other queries
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    network.save_pretrained(folder / name)
    getattr(transformers, processor)(size={"height": side, "width": side}).save_pretrained(folder / name)
    return load_checkpoint(str(folder / name))


def peer(name: str, images: torch.Tensor) -> tuple[str, Way] | None:
    """Return the network of the package that a model comes from, if it is installed."""
    try:
        if name == "rf-detr-nano":
            import rfdetr
            from rfdetr.models.backbone import dinov2

            backbone: Any = dinov2.WindowedDinov2WithRegistersBackbone
            backbone.from_pretrained = classmethod(lambda cls, name, config: cls(config))  # no download
            network = rfdetr.RFDETRNano(pretrain_weights=None, device="cpu").model.model.eval()
            network.export()  # its form for inference
        elif name == "rt-detr-r50":
            from ultralytics.nn.tasks import RTDETRDetectionModel

            network = RTDETRDetectionModel("rtdetr-resnet50.yaml", verbose=False).eval().fuse(verbose=False)
        else:
            return None
    except ImportError:
        return None

    def compute() -> Any:
        with torch.inference_mode():
            return network(images)

    compute()
    return "rfdetr" if name == "rf-detr-nano" else "ultralytics", compute


def ways_of(name: str, folder: Path, *, compiled: bool) -> dict[str, Way]:
    """Return the ways to compute a model for an image."""
    checkpoint = checkpoint_of(name, folder)
    placement = checkpoint.preprocessing.resize.place(480, 640)
    images = torch.randn(1, 3, placement.height, placement.width, generator=torch.Generator().manual_seed(0))
    batch, ways = Batch(images, None), {}
    engines = [
        ("plain", "fp32"), ("fast", "fp32"), ("fast", "bf16"), *([("compiled", "fp32")] if compiled else []),
        ("onnx", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"),
    ]  # fmt: skip
    for engine, precision in engines:
        try:
            compute = Detector(checkpoint, "cpu", precision, engine=engine).engine
            compute(batch)
        except DetrError as error:
            print(f"{name}: {engine} {precision} is left out: {str(error).splitlines()[0]}")
        else:
            ways[f"{engine} {precision}"] = lambda compute=compute: compute(batch)
    try:
        from detrcli.inference.quantize import check_nncf, quantize

        check_nncf()
        source = cached_export(checkpoint, RUNTIMES["openvino"], "fp32", SILENT)
        noise = [np.random.default_rng(i).standard_normal(images.shape, np.float32) for i in range(8)]
        quantize(source, folder / f"{name}.xml", noise, "attention values")
        compute = RUNTIMES["openvino"].open(folder / f"{name}.xml", "fp32")
        ways["openvino int8"] = lambda: compute(batch)
    except (DetrError, ImportError) as error:
        print(f"{name}: openvino int8 is left out: {error}")
    if (package := peer(name, images)) is not None:
        ways[package[0]] = package[1]
    return ways


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=[*MODELS, "dino-tiny"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--compiled", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    keep_large_blocks()
    clock = time.process_time if options.cpu_time else time.perf_counter
    rows = []
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["DETR_CACHE"] = folder
            ways = ways_of(name, Path(folder), compiled=options.compiled)
            seconds = in_turn(ways, options.rounds, clock=clock)
        rows += [{"model": name, **row} for row in compared(seconds, "plain fp32")]
        show(rows[-len(ways) :])
    show(rows, clock="processor time" if options.cpu_time else "elapsed time")


if __name__ == "__main__":
    main()
