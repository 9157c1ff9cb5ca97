"""Small models of the families of transformers, with random weights, in the folders that it writes."""

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoModelForObjectDetection

from detrcli.data.shapes import scene

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

CLASSES = {0: "circle", 1: "square", 2: "triangle", 3: "star", 4: "cross"}
SIDE = 64  # of the images, for families with a fixed size
LEVELS = ("stage2", "stage3", "stage4")
_LAYERS: dict[str, Any] = {
    "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 20, "id2label": CLASSES,
}  # fmt: skip


def resnet(*stages: str, kind: Any = transformers.ResNetConfig) -> Any:
    # With other widths than multiples of 16, oneDNN's backward convolution (avx512_core) can corrupt the memory.
    first, widths = (16, [16, 16, 32, 32]) if kind is transformers.ResNetConfig else (8, [8, 16, 24, 32])
    return kind(
        embedding_size=first, hidden_sizes=widths, depths=[1, 1, 1, 1], layer_type="basic", out_features=list(stages)
    )


def _rt(backbone: Any, **more: Any) -> dict[str, Any]:
    return {
        "backbone_config": backbone, "encoder_in_channels": [16, 24, 32], "encoder_hidden_dim": 32,
        "encoder_ffn_dim": 32, "encoder_attention_heads": 2, "d_model": 32, "decoder_in_channels": [32, 32, 32],
        "decoder_ffn_dim": 32, "decoder_layers": 2, "decoder_attention_heads": 2, "num_queries": 20,
        "num_denoising": 10, "id2label": CLASSES, **more,
    }  # fmt: skip


def _hgnet() -> Any:
    return transformers.HGNetV2Config(
        embedding_size=8, stem_channels=[3, 8, 8], depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32],
        stage_in_channels=[8, 8, 16, 24], stage_mid_channels=[8, 8, 8, 8], stage_out_channels=[8, 16, 24, 32],
        stage_num_blocks=[1, 1, 1, 1], stage_numb_of_layers=[1, 1, 1, 1], out_features=list(LEVELS),
    )  # fmt: skip


def _windows(kind: str, **more: Any) -> dict[str, Any]:
    backbone = {
        "model_type": kind, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE,
        "patch_size": 8, **more,
    }  # fmt: skip
    return {
        "backbone_config": backbone, "d_model": 32, "decoder_ffn_dim": 32, "decoder_layers": 2,
        "decoder_self_attention_heads": 2, "decoder_cross_attention_heads": 2, "num_queries": 20, "group_detr": 3,
        "id2label": CLASSES,
    }  # fmt: skip


def config_of(name: str) -> Any:
    lib = transformers
    deformable = {"backbone_config": resnet(*LEVELS), "d_model": 64, **_LAYERS}
    stages = {"with_box_refine": True, "two_stage": True, "two_stage_num_proposals": 20}
    dense = {"backbone_config": resnet("stage4"), **_LAYERS}
    timm = lib.TimmBackboneConfig(backbone="resnet10t", out_indices=[1, 2, 3, 4], use_pretrained_backbone=False)
    rt_resnet = resnet(*LEVELS, kind=lib.RTDetrResNetConfig)
    made = {
        "deformable": lambda: lib.DeformableDetrConfig(**deformable),
        "deformable-refine": lambda: lib.DeformableDetrConfig(**deformable, with_box_refine=True),
        "deformable-two-stage": lambda: lib.DeformableDetrConfig(**deformable, **stages),
        "conditional": lambda: lib.ConditionalDetrConfig(**dense, d_model=32),
        "conditional-timm": lambda: lib.ConditionalDetrConfig(**{**dense, "backbone_config": timm}, d_model=32),
        "dab": lambda: lib.DabDetrConfig(**dense, hidden_size=32),
        "table": lambda: lib.TableTransformerConfig(**dense, d_model=32),
        "rt": lambda: lib.RTDetrConfig(**_rt(rt_resnet)),
        "rt-v2": lambda: lib.RTDetrV2Config(**_rt(rt_resnet)),
        "d-fine": lambda: lib.DFineConfig(**_rt(_hgnet(), decoder_n_points=[3, 4, 2])),
        "deim-v2": lambda: lib.Deimv2Config(**_rt(_hgnet())),
        "lw": lambda: lib.LwDetrConfig(
            **_windows(
                "lw_detr_vit", window_block_indices=[0], out_indices=[0, 1], num_windows=4,
                pretrain_image_size=SIDE,
            ),
            projector_scale_factors=[1.0],
        ),
        "rf": lambda: lib.RfDetrConfig(**_windows("rf_detr_dinov2", num_windows=2, out_indices=[1, 2])),
        "yolos": lambda: lib.YolosConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            image_size=[SIDE, SIDE], patch_size=8, num_detection_tokens=20, id2label=CLASSES,
        ),
    }  # fmt: skip
    return made[name]()


QUICK = ("conditional", "rt")
SLOW = (
    "deformable", "deformable-refine", "deformable-two-stage", "conditional-timm", "dab", "table", "rt-v2", "d-fine",
    "deim-v2", "lw", "rf", "yolos",
)  # fmt: skip
NAMES = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


def processor_of(name: str) -> Any:
    exact = {"size": {"height": 96, "width": 96}}
    edges = {"size": {"shortest_edge": 96, "longest_edge": 150}}
    kind = name.split("-")[0]
    cls, given = {
        "deformable": (transformers.DeformableDetrImageProcessor, edges),
        "conditional": (transformers.ConditionalDetrImageProcessor, edges),
        "dab": (transformers.ConditionalDetrImageProcessor, edges),
        "table": (transformers.DetrImageProcessor, {"size": {"max_height": 120, "max_width": 100}}),
        "rt": (transformers.RTDetrImageProcessor, exact),
        "d": (transformers.RTDetrImageProcessor, exact),
        "deim": (transformers.RTDetrImageProcessor, {**exact, "do_normalize": True}),
        "lw": (transformers.DeformableDetrImageProcessor, {"size": {"height": SIDE, "width": SIDE}}),
        "rf": (transformers.RfDetrImageProcessor, {"size": {"height": SIDE, "width": SIDE}}),
        "yolos": (transformers.YolosImageProcessor, edges),
    }[kind]
    return cls(**given)


@cache
def root() -> Path:
    """A folder for small models, until the process ends."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def saved(
    folder: Path, kind: Any, config: Any, processor: Any, seed: int, scales: Mapping[str, float] | None = None
) -> Path:
    """Save a model with its processor. Random weights are moved and parts scaled, so that no two queries are equal."""
    torch.manual_seed(seed)
    network = kind.from_config(config)
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if parameter.dim() > 0 and parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
            parameter.mul_(next((scale for part, scale in (scales or {}).items() if part in key), 1.0))
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@cache
def folder_of(name: str) -> Path:
    return saved(root() / name, AutoModelForObjectDetection, config_of(name), processor_of(name), seed=0)


def images() -> Iterator[Any]:
    """Yield three images of different sizes."""
    for number, size in enumerate(((120, 160), (150, 90), (96, 96))):
        made = Image.fromarray(scene(7, number, 160).pixels)
        yield Image.fromarray(np.array(made.resize(size[::-1])))


def changed(source: Path, place: Path, file: str = "config.json", **facts: Any) -> str:
    """Copy a folder, and change values in a JSON file of it, also of nested dicts, as "a.b"."""
    shutil.copytree(source, place)
    content = json.loads((place / file).read_text())
    for key, value in facts.items():
        *parents, last = key.split(".")
        part = content
        for parent in parents:
            part = part[parent]
        part[last] = value
    (place / file).write_text(json.dumps(content))
    return str(place)


def truth_of_predictions(
    data: Path, predict: Callable[[Any], Iterable[tuple[dict[str, Any], dict[str, Any]]]], every: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Make some of a model's predictions the ground truth of a dataset's val split, so that metrics are above 0.

    `predict` gives, for an image, pairs of a COCO result without its image, and of a similar annotation. Returns the
    ground truth and all results.
    """
    path = data / "annotations" / "instances_val.json"
    truth = json.loads(path.read_text())
    results: list[dict[str, Any]] = []
    truth["annotations"] = []
    for image in truth["images"]:
        pixels = Image.open(data / "val" / image["file_name"]).convert("RGB")
        for number, (result, annotation) in enumerate(predict(pixels)):
            results.append({"image_id": image["id"], **result})
            if number % every == 0:
                own = {"id": len(truth["annotations"]) + 1, "image_id": image["id"], "iscrowd": 0}
                truth["annotations"].append({**own, **annotation})
    path.write_text(json.dumps(truth))
    return truth, results


def box_pairs(scores: Any, ids: Iterable[int], boxes: Any) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield results of boxes (N, 4), xyxy, and annotations whose boxes are moved by some pixels."""
    rows = zip(scores.tolist(), ids, boxes.tolist(), strict=True)
    for number, (score, category, (x0, y0, x1, y1)) in enumerate(rows):
        w, h = x1 - x0, y1 - y0
        moved = {"category_id": category, "bbox": [x0 + number % 7, y0 + number % 5, w, h], "area": w * h}
        yield {"category_id": category, "bbox": [x0, y0, w, h], "score": score}, moved
