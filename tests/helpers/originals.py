"""Models of transformers with random weights, and their tensors under the names of the repositories they come from."""

import re
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pycocotools import mask as rle
from torch import Tensor, nn

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.data.shapes import scene
from detrcli.structures import Batch

Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
QKV = r"(.*self_attn)\.([qkv])_proj\.(weight|bias)"

RT_DETR: Rules = (
    (r"^model\.encoder\.aifi\.(\d+)\.layers\.(\d+)\.self_attn_layer_norm\.", r"encoder.encoder.\1.layers.\2.norm1."),
    (r"^model\.encoder\.aifi\.(\d+)\.layers\.(\d+)\.final_layer_norm\.", r"encoder.encoder.\1.layers.\2.norm2."),
    (r"^model\.encoder\.aifi\.", "encoder.encoder."),
    (r"^model\.(encoder|decoder)_input_proj\.(\d+)\.0\.", r"\1.input_proj.\2.conv."),
    (r"^model\.(encoder|decoder)_input_proj\.(\d+)\.1\.", r"\1.input_proj.\2.norm."),
    (r"^model\.encoder\.", "encoder."),
    (r"^model\.decoder\.layers\.(\d+)\.self_attn_layer_norm\.", r"decoder.decoder.layers.\1.norm1."),
    (r"^model\.decoder\.layers\.(\d+)\.encoder_attn_layer_norm\.", r"decoder.decoder.layers.\1.norm2."),
    (r"^model\.decoder\.layers\.(\d+)\.final_layer_norm\.", r"decoder.decoder.layers.\1.norm3."),
    (r"^model\.decoder\.layers\.(\d+)\.encoder_attn\.", r"decoder.decoder.layers.\1.cross_attn."),
    (r"^model\.decoder\.class_embed\.", "decoder.dec_score_head."),
    (r"^model\.decoder\.bbox_embed\.", "decoder.dec_bbox_head."),
    (r"^model\.decoder\.(query_pos_head|pre_bbox_head)\.", r"decoder.\1."),
    (r"^model\.decoder\.", "decoder.decoder."),
    (r"^model\.enc_output\.0\.", "decoder.enc_output.proj."),
    (r"^model\.enc_output\.1\.", "decoder.enc_output.norm."),
    (r"^model\.(enc_score_head|enc_bbox_head|denoising_class_embed)\.", r"decoder.\1."),
    (r"\.o_proj\.", ".out_proj."),
)
RESNET: Rules = (
    *RT_DETR,
    (r"\.mlp\.fc(\d)\.", r".linear\1."),
    (r"^model\.backbone\.model\.embedder\.embedder\.(\d)\.", lambda m: f"backbone.conv1.conv1_{int(m[1]) + 1}."),
    (r"^model\.backbone\.model\.encoder\.stages\.(\d+)\.layers\.", r"backbone.res_layers.\1.blocks."),
    (r"\.layer\.(\d)\.", lambda m: f".branch2{'abc'[int(m[1])]}."),
    (r"\.shortcut\.1\.", ".short.conv."),
    (r"\.shortcut\.", ".short."),
    (r"\.convolution\.", ".conv."),
    (r"\.normalization\.", ".norm."),
    (r"\.n_points_scale$", ".num_points_scale"),
)
HGNET: Rules = (
    (r"_blocks\.(\d+)\.conv([14])\.", r"_blocks.\1.cv\2."),
    (r"_blocks\.(\d+)\.csp_rep([12])\.", lambda m: f"_blocks.{m[1]}.cv{int(m[2]) + 1}.0."),
    (r"_blocks\.(\d+)\.conv([23])\.", r"_blocks.\1.cv\2.1."),
    (r"downsample_convs\.(\d+)\.conv([12])\.", r"downsample_convs.\1.0.cv\2."),
    *RT_DETR,
    (r"\.mlp\.layers\.(\d)\.", lambda m: f".linear{int(m[1]) + 1}."),
    (r"^model\.backbone\.model\.embedder\.", "backbone.stem."),
    (r"^model\.backbone\.model\.encoder\.stages\.", "backbone.stages."),
    (r"\.convolution\.", ".conv."),
    (r"\.normalization\.", ".bn."),
)
_DECODER: Rules = (  # and the projector before it
    (r"\.bottlenecks\.(\d+)\.", r".m.\1."),
    (r"^(backbone\.0\.projector\.stages\..*)\.conv(\d)\.", r"\1.cv\2."),
    (r"^(backbone\.0\.projector\..*)\.norm\.", r"\1.bn."),
    (r"^model\.decoder\.layers\.(\d+)\.self_attn_layer_norm\.", r"transformer.decoder.layers.\1.norm1."),
    (r"^model\.decoder\.layers\.(\d+)\.cross_attn_layer_norm\.", r"transformer.decoder.layers.\1.norm2."),
    (r"^model\.decoder\.layers\.(\d+)\.layer_norm\.", r"transformer.decoder.layers.\1.norm3."),
    (r"^model\.decoder\.layers\.(\d+)\.mlp\.fc(\d)\.", r"transformer.decoder.layers.\1.linear\2."),
    (r"\.self_attn\.o_proj\.", ".self_attn.out_proj."),
    (r"^model\.decoder\.layernorm\.", "transformer.decoder.norm."),
    (r"^model\.reference_point_embed\.", "refpoint_embed."),
    (r"^model\.query_feat\.", "query_feat."),
    (r"^model\.", "transformer."),
)
LW_DETR: Rules = (
    (r"^model\.backbone\.backbone\.embeddings\.position_embeddings", "backbone.0.encoder.pos_embed"),
    (r"^model\.backbone\.backbone\.embeddings\.projection\.", "backbone.0.encoder.patch_embed.proj."),
    (r"^model\.backbone\.backbone\.encoder\.layer\.", "backbone.0.encoder.blocks."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.", ".mlp."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.([qv])_proj\.bias$", r".attn.\1_bias"),
    (r"^model\.backbone\.projector\.scale_layers\.(\d+)\.projector_layer\.", r"backbone.0.projector.stages.\1.0."),
    (r"^model\.backbone\.projector\.scale_layers\.(\d+)\.layer_norm\.", r"backbone.0.projector.stages.\1.1."),
    (
        r"^model\.backbone\.projector\.scale_layers\.(\d+)\.sampling_layers\.(\d+)\.layers\.",
        r"backbone.0.projector.stages_sampling.\1.\2.",
    ),
    *_DECODER,
)
RF_DETR: Rules = (
    # Of the mask head; the names of the detector beside it start with `model.` once more.
    (r"^blocks\.(\d+)\.depthwise_conv\.", r"segmentation_head.blocks.\1.dwconv."),
    (r"^blocks\.(\d+)\.layernorm\.", r"segmentation_head.blocks.\1.norm."),
    (r"^blocks\.(\d+)\.pointwise_conv\.", r"segmentation_head.blocks.\1.pwconv1."),
    (r"^query_features_block\.norm\.", "segmentation_head.query_features_block.norm_in."),
    (r"^query_features_block\.mlp\.fc1\.", "segmentation_head.query_features_block.layers.0."),
    (r"^query_features_block\.mlp\.fc2\.", "segmentation_head.query_features_block.layers.2."),
    (r"^(spatial_features_proj|query_features_proj)\.", r"segmentation_head.\1."),
    (r"^segmentation_bias$", "segmentation_head.bias"),
    (r"^model\.(model|class_embed|bbox_embed)\.", r"\1."),
    (r"^model\.backbone\.backbone\.embeddings\.", "backbone.0.encoder.encoder.embeddings."),
    (r"^model\.backbone\.backbone\.encoder\.", "backbone.0.encoder.encoder.encoder."),
    (r"^model\.backbone\.backbone\.layernorm\.", "backbone.0.encoder.encoder.layernorm."),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"^model\.backbone\.projector\.projector_layer\.", "backbone.0.projector.stages.0.0."),
    (r"^model\.backbone\.projector\.layer_norm\.", "backbone.0.projector.stages.0.1."),
    *_DECODER,
)


def original_names(network: nn.Module, rules: Rules) -> dict[str, Tensor]:
    """Return the tensors of a network under the names of its repository."""
    tensors: dict[str, Tensor] = {}
    joint: dict[str, list[Tensor]] = {}
    patterns = [(QKV, "{}.in_proj_{}")]
    if rules is not RF_DETR:
        patterns.append((r"(.*backbone.*)\.attention\.([qkv])_proj\.(weight)", "{}.attn.qkv.{}"))
    for name, tensor in network.state_dict().items():
        if name.startswith(("class_embed.0", "bbox_embed.0", "class_embed.1", "bbox_embed.1")) or (
            re.match(r"(class|bbox)_embed\.\d", name) and hasattr(network.model.decoder, "class_embed")  # type: ignore[union-attr]
        ):
            continue  # also in the decoder
        for pattern, form in patterns:
            if match := re.fullmatch(pattern, name):
                key = form.format(match[1], match[3])
                joint.setdefault(key, [tensor] * 3)["qkv".index(match[2])] = tensor
                break
        else:
            tensors[name] = tensor
    tensors |= {name: torch.cat(parts) for name, parts in joint.items()}
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


@torch.no_grad()
def randomize(network: nn.Module) -> nn.Module:
    """Fill a network with numbers of a size that keeps activations, but for constants."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point() or name.endswith(("reg_scale", ".up", "points_scale")):
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.dim() > 1:
            tensor.copy_(noise / tensor[0].numel() ** 0.5)
        elif name.endswith("running_var"):
            tensor.copy_(1 + 0.1 * noise.abs())
        else:
            tensor.copy_(1 + 0.1 * noise if name.endswith("weight") else 0.05 * noise)
    return network.eval()


# The configs that the repositories publish, in the terms of transformers.
def rt_detr(depths: Sequence[int], *, basic: bool = False, **more: Any) -> dict[str, Any]:
    """Return the config of an RT-DETR."""
    backbone = {
        "model_type": "rt_detr_resnet",
        "depths": list(depths),
        "layer_type": "basic" if basic else "bottleneck",
        "hidden_sizes": [64, 128, 256, 512] if basic else [256, 512, 1024, 2048],
        "out_features": ["stage2", "stage3", "stage4"],
    }
    small = {"encoder_in_channels": [128, 256, 512], "hidden_expansion": 0.5} if basic else {}
    return {"backbone_config": backbone, "num_labels": 80, **small, **more}


def d_fine(
    stem: Sequence[int], inputs: Sequence[int], middle: Sequence[int], outputs: Sequence[int], blocks: Sequence[int],
    layers: int, points: Sequence[int], *, affine: bool, **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """Return the config of a D-FINE."""
    levels = len(points)
    backbone = {
        "model_type": "hgnet_v2", "stem_channels": [3, *stem], "stage_in_channels": inputs,
        "stage_mid_channels": middle, "stage_out_channels": outputs, "hidden_sizes": outputs,
        "stage_num_blocks": blocks, "stage_numb_of_layers": [layers] * 4, "use_learnable_affine_block": affine,
        "out_indices": [2, 3, 4][-levels:],
    }  # fmt: skip
    dim = more.get("encoder_hidden_dim", 256)
    return {
        "backbone_config": backbone, "num_labels": 80, "num_feature_levels": levels, "decoder_n_points": points,
        "feat_strides": [8, 16, 32][-levels:], "encode_proj_layers": [levels - 1],
        "encoder_in_channels": outputs[-levels:], "decoder_in_channels": [dim] * levels, **more,
    }  # fmt: skip


def lw_detr(hidden: int, blocks: int, *, large: bool = False, queries: int = 300) -> dict[str, Any]:
    """Return the config of an LW-DETR."""
    backbone = {
        "model_type": "lw_detr_vit", "hidden_size": hidden, "num_hidden_layers": blocks, "num_attention_heads": 12,
        "window_block_indices": [0, 2, 4] if blocks == 6 else [0, 1, 3, 6, 7, 9],
        "out_indices": [2, 4, 6] if blocks == 6 else [3, 5, 6, 10],
    }  # fmt: skip
    decoder = (
        {"d_model": 384, "decoder_self_attention_heads": 12, "decoder_cross_attention_heads": 24, "decoder_n_points": 4}
        if large
        else {"decoder_n_points": 2}
    )
    return {
        "backbone_config": backbone, "num_labels": 91, "num_queries": queries,
        "projector_scale_factors": [2.0, 0.5] if large else [1.0], **decoder,
    }  # fmt: skip


R18, R34, R50 = (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 6, 3)
B0 = ((16, 16), [16, 64, 256, 512], [16, 32, 64, 128], [64, 256, 512, 1024], [1, 1, 2, 1], 3)
B2 = ((24, 32), [32, 96, 384, 768], [32, 64, 128, 256], [96, 384, 768, 1536], [1, 1, 3, 1], 4)
B4 = ((32, 48), [48, 128, 512, 1024], [48, 96, 192, 384], [128, 512, 1024, 2048], [1, 1, 3, 1], 6)
B5 = ((32, 64), [64, 128, 512, 1024], [64, 128, 256, 512], [128, 512, 1024, 2048], [1, 2, 5, 2], 6)
_NARROW = {"encoder_hidden_dim": 128, "d_model": 128, "encoder_ffn_dim": 512, "decoder_ffn_dim": 512}
_WIDE = {"encoder_hidden_dim": 384, "encoder_ffn_dim": 2048}
# Model type, config, rules. By the names of the repositories' files.
MODELS: Mapping[str, tuple[str, dict[str, Any], Rules]] = {
    "rtdetr_r18vd.pth": ("rt_detr", rt_detr(R18, basic=True, decoder_layers=3), RESNET),
    "rtdetr_r34vd.pth": ("rt_detr", rt_detr(R34, basic=True, decoder_layers=4), RESNET),
    "rtdetr_r50vd.pth": ("rt_detr", rt_detr(R50), RESNET),
    "rtdetr_r101vd.pth": (
        "rt_detr", rt_detr((3, 4, 23, 3), **_WIDE, decoder_in_channels=[384] * 3), RESNET,
    ),
    "rtdetr_r50vd_m.pth": ("rt_detr", rt_detr(R50, hidden_expansion=0.5, decoder_layers=3), RESNET),
    "rtdetrv2_r50vd_m.pth": ("rt_detr_v2", rt_detr(R50, hidden_expansion=0.5, decoder_layers=3), RESNET),
    "rtdetrv2_r18vd.pth": ("rt_detr_v2", rt_detr(R18, basic=True, decoder_layers=3), RESNET),
    "rtdetrv2_r50vd.pth": ("rt_detr_v2", rt_detr(R50), RESNET),
    "rtdetrv2_r18vd_dsp.pth": (
        "rt_detr_v2", rt_detr(R18, basic=True, decoder_layers=3, decoder_method="discrete"), RESNET,
    ),
    "dfine_n_coco.pth": (
        "d_fine",
        d_fine(*B0, [6, 6], affine=True, **_NARROW, hidden_expansion=0.34, depth_mult=0.5, decoder_layers=3),
        HGNET,
    ),
    "dfine_s_coco.pth": (
        "d_fine", d_fine(*B0, [3, 6, 3], affine=True, hidden_expansion=0.5, depth_mult=0.34, decoder_layers=3), HGNET,
    ),
    "dfine_m_coco.pth": (
        "d_fine", d_fine(*B2, [3, 6, 3], affine=True, hidden_expansion=1.0, depth_mult=0.67, decoder_layers=4), HGNET,
    ),
    "dfine_l_coco.pth": ("d_fine", d_fine(*B4, [3, 6, 3], affine=False), HGNET),
    "dfine_x_coco.pth": ("d_fine", d_fine(*B5, [3, 6, 3], affine=False, **_WIDE), HGNET),
    "LWDETR_tiny.pth": ("lw_detr", lw_detr(192, 6, queries=100), LW_DETR),
    "LWDETR_small.pth": ("lw_detr", lw_detr(192, 10), LW_DETR),
    "LWDETR_medium.pth": ("lw_detr", lw_detr(384, 10), LW_DETR),
    "LWDETR_xlarge.pth": ("lw_detr", lw_detr(768, 10, large=True), LW_DETR),
    "LWDETR_large.pth": ("lw_detr", lw_detr(384, 10, large=True), LW_DETR),
}  # fmt: skip


def rf_detr(
    *, masks: bool, layers: int = 2, queries: int = 20, side: int = 10, rows: int = 4, **more: Any
) -> dict[str, Any]:
    """Return the config of a narrow RF-DETR, with what its package does not let users change."""
    return {
        "d_model": 256, "decoder_layers": layers, "decoder_n_points": 2, "num_queries": queries, "num_labels": rows,
        "layer_norm_eps": 1e-6, "dropout": 0.0, "decoder_ffn_dim": 64, "intermediate_size": 64,
        "backbone_config": {
            "model_type": "rf_detr_dinov2", "hidden_size": 64, "num_hidden_layers": 12, "num_attention_heads": 1,
            "patch_size": 12 if masks else 16, "num_windows": 2, "layer_norm_eps": 1e-6,
            "image_size": side * (12 if masks else 16), "out_features": ["stage3", "stage6", "stage9", "stage12"],
        },
        **more,
    }  # fmt: skip


# By the versions of the package that write them: a file's content from the tensors, class names and the architecture.
NAMES = ["cat", "dog", "bird"]
TRAINING = {"class_names": NAMES, "epochs": 3, "dataset_file": "roboflow", "num_select": 7}  # which nobody reads


def rf_detr_files(tensors: Mapping[str, Tensor], architecture: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the contents of checkpoints of RF-DETR's package by version."""
    broken = {key: torch.zeros_like(tensor) for key, tensor in tensors.items()}
    before_1_6 = {**architecture, "pretrain_weights": "none", "dataset_file": "roboflow"}
    lightning = {
        "epoch": 3, "global_step": 7, "pytorch-lightning_version": "2.5", "loops": {"fit_loop": {}},
        "state_dict": {f"model.{key}": tensor for key, tensor in tensors.items()},
        "optimizer_states": [], "lr_schedulers": [], "args": TRAINING,
    }  # fmt: skip
    compiled = {f"model._orig_mod.{key}": tensor for key, tensor in tensors.items()}
    return {
        "published": {"model": tensors},
        "1.0": {
            "model": tensors, "ema_model": broken, "optimizer": {"state": {}}, "lr_scheduler": {}, "epoch": 3,
            "args": Namespace(**before_1_6),
        },
        "1.1 total": {"model": tensors, "args": Namespace(class_names=NAMES, **before_1_6)},
        "1.2 bundle": {"model": tensors, "args": SimpleNamespace(class_names=NAMES, **before_1_6)},
        "1.6": {"model": tensors, **lightning},
        "1.7": {"model": tensors, **lightning, "model_name": name, "rfdetr_version": "1.7.1"},
        "1.8": {
            "model": {**tensors, "_kp_active_mask": torch.zeros(0)}, **lightning, "model_name": name,
            "model_config": dict(architecture),
        },
        "1.11 ckpt": {**lightning, "state_dict": compiled, "model_name": name, "model_config": dict(architecture)},
    }  # fmt: skip


def saved(path: Path, content: object) -> str:
    torch.save(content, path)
    return str(path)


def zeros(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}


def photo(path: Path, number: int = 3) -> Path:
    """Save an image whose sides are not those of the network's input."""
    image = Image.fromarray(scene(7, number, 400).pixels).resize((437, 291))
    image.save(path)
    return path


def check_detections(ours: Any, theirs: Any) -> None:
    """Compare scores, classes, boxes and masks, in any order of nearly equal scores."""
    assert not missing(ours, theirs)


def missing(ours: Any, theirs: Any) -> set[int]:
    """Return the indices of their detections that ours lack. Masks are compared where detections are equal."""
    boxes, scores, labels, masks = theirs
    assert len(ours) == len(scores) > 20
    left = set(range(len(scores)))
    for entry in ours:
        near = (np.abs(boxes - entry["box"]).max(1) < 0.05) & (np.abs(scores - entry["score"]) < 1e-3)
        same = left & set(np.flatnonzero(near & (labels == entry["category_id"])).tolist())
        if same:
            left.remove(number := min(same))
            if masks is not None:
                mask = rle.decode({**entry["mask"], "counts": entry["mask"]["counts"].encode()})
                check_masks(torch.from_numpy(mask).float(), torch.from_numpy(masks[number]).float())
    return left


def check_masks(ours: Tensor, theirs: Tensor, cell: int = 5) -> None:
    """Masks differ by a cell along their contours, but for pixels whose logits are nearly 0."""
    inner, outer = (sign * F.max_pool2d(sign * theirs[None], 2 * cell + 1, 1, cell)[0] for sign in (-1, 1))
    assert ((ours < inner) | (ours > outer)).float().mean() < 1e-3


@torch.no_grad()
def check_equal(checkpoint: Checkpoint, network: nn.Module, side: int = 320) -> None:
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    ours, theirs = checkpoint.model()(Batch(images, None)).last, network(images)
    assert theirs.logits.std() > 1e-3
    if ours.masks is not None:
        queries = torch.arange(theirs.logits.shape[1])
        masks = ours.masks(torch.zeros_like(queries), queries)
        torch.testing.assert_close(masks, theirs.pred_masks[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.boxes, theirs.pred_boxes, rtol=0, atol=1e-6)
