"""Checkpoints of the package `rfdetr`, versions 1.0 to 1.11 (github.com/roboflow/rf-detr)."""

import math
from argparse import Namespace
from collections.abc import Collection, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from detrcli.architectures.adapters.originals.conversion import Converted, Repository, count, shape
from detrcli.errors import WeightsError

COCO_ROWS, COCO_NAMES = 91, 80  # rows by category id, of which 80 are used
NO_OBJECT = "no object"
# By patch size, for checkpoints without their config: windows, and the backbone blocks that give feature maps.
WINDOWS = {12: 2, 14: 4, 16: 2}
STAGES = {12: (3, 6, 9, 12), 14: (2, 5, 8, 11), 16: (3, 6, 9, 12)}
# Pairs of query and class that become detections: of models without masks, and with masks by name.
NUM_SELECT = 300
NUM_SELECT_OF = {"Nano": 100, "Small": 100, "Preview": 200, "Medium": 200, "Large": 200, "XLarge": 300, "2XLarge": 300}
BASE_RESOLUTION = 560  # of the models with patches of 14 pixels, whose position grid is smaller
# The only model with a single window: side of the position grid, queries, and name.
SEG_NANO, SEG_NANO_NAME = (26, 100), "Nano"
# The published file of this model has more queries per group than the model: side of the position grid, queries of
# the file, of which the first are used.
SEG_LARGE, SEG_LARGE_QUERIES = (42, 300), 200
BACKBONE, DECODER = "backbone.0.encoder.encoder.", "transformer.decoder.layers."
ADAPTER = "backbone.0.encoder.base_model."  # of a LoRA or DoRA adapter, with the encoder in it
MASK_HEAD = "segmentation_head."
QUERIES = ("refpoint_embed.weight", "query_feat.weight")  # with the rows of all groups


class RfDetr(Repository):
    """The package `rfdetr`. transformers knows its tensor names, so that they stay."""

    mark = BACKBONE + "embeddings."
    states = ("model", "state_dict")

    def recognizes(self, names: Collection[str]) -> bool:
        return super().recognizes(names) or any(name.startswith(ADAPTER) for name in names)

    def convert(self, tensors: Mapping[str, Tensor], content: Mapping[str, Any], file: str, source: str) -> Converted:
        """Convert a checkpoint.

        Shapes determine most of the config. Windows, stages and resolution are in the checkpoint's config, or follow
        from the patch size.
        """
        _check(tensors, source)
        facts = _facts(content)
        rows, width = shape(tensors, "class_embed.weight", source)
        patch = shape(tensors, BACKBONE + "embeddings.patch_embeddings.projection.weight", source)[-1]
        _, positions, hidden = shape(tensors, BACKBONE + "embeddings.position_embeddings", source)
        side = math.isqrt(positions - 1)
        groups = count(tensors, r"transformer\.enc_output\.(\d+)\.")
        stored = shape(tensors, QUERIES[0], source)[0] // max(groups, 1)
        has_masks = any(name.startswith(MASK_HEAD) for name in tensors)
        queries = facts.get("num_queries") or (
            SEG_LARGE_QUERIES if has_masks and (side, stored) == SEG_LARGE else stored
        )
        queries = min(int(queries), stored)
        points = facts.get("dec_n_points") or (2 if width == 256 else 4)
        if patch not in WINDOWS:
            raise WeightsError(f"{source}: an RF-DETR with patches of {patch} pixels is not supported.")
        name = str(content.get("model_name")).removeprefix("RFDETRSeg")  # of a model with masks
        seg_nano = name == SEG_NANO_NAME or (has_masks and (side, queries) == SEG_NANO)
        resolution = facts.get("resolution") or (BASE_RESOLUTION if patch == 14 else side * patch)
        stages: Sequence[int] = facts.get("out_feature_indexes") or STAGES[patch]
        attention = shape(tensors, DECODER + "0.cross_attn.attention_weights.weight", source)[0]
        config = {
            "d_model": width,
            "decoder_layers": count(tensors, r"transformer\.decoder\.layers\.(\d+)\."),
            "decoder_self_attention_heads": facts.get("sa_nheads") or width // 32,
            "decoder_cross_attention_heads": attention // points,
            "decoder_n_points": points,
            "decoder_ffn_dim": shape(tensors, DECODER + "0.linear1.weight", source)[0],
            "num_queries": queries,
            "group_detr": groups,
            "num_labels": rows,
            "layer_norm_eps": 1e-6,
            "dropout": 0.0,
            "backbone_config": {
                "model_type": "rf_detr_dinov2",
                "hidden_size": hidden,
                "num_hidden_layers": count(tensors, rf"{BACKBONE}encoder\.layer\.(\d+)\."),
                "num_attention_heads": hidden // 64,
                "patch_size": patch,
                "image_size": side * patch,
                "num_windows": facts.get("num_windows") or (1 if seg_nano else WINDOWS[patch]),
                "layer_norm_eps": 1e-6,
                "out_features": [f"stage{stage}" for stage in stages],
            },
        }
        if has_masks:
            config["mask_downsample_ratio"] = facts.get("mask_downsample_ratio") or 4
            config["intermediate_size"] = shape(tensors, f"{MASK_HEAD}query_features_block.layers.0.weight", source)[0]
        processor = {"size": {"height": int(resolution), "width": int(resolution)}}
        selected = facts.get("num_select") or (NUM_SELECT_OF.get(name, queries) if has_masks else NUM_SELECT)
        config["num_select"] = int(selected)
        kept = {name: tensor for name, tensor in tensors.items() if name != "_kp_active_mask"}
        if queries < stored:
            kept |= {name: tensors[name].view(groups, stored, -1)[:, :queries].flatten(0, 1) for name in QUERIES}
        return Converted(
            "rf_detr",
            f"RfDetrFor{'InstanceSegmentation' if has_masks else 'ObjectDetection'}",
            config,
            kept,
            processor,
            class_names(content.get("args"), rows),
            has_masks=has_masks,
        )


def _check(tensors: Mapping[str, Tensor], source: str) -> None:
    unsupported = {
        "the RF-DETR large of 2025, with two levels of features": "backbone.0.projector.stages_sampling.",
        "an RF-DETR with key points": "keypoint_embed.",
        "an RF-DETR with a LoRA or DoRA adapter that was not merged": ADAPTER,
    }
    for what, prefix in unsupported.items():
        if any(name.startswith(prefix) for name in tensors):
            raise WeightsError(f"{source}: {what}, which is not supported. transformers has no such model.")


def _facts(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the architecture's settings, if the checkpoint has them."""
    config, args = content.get("model_config"), content.get("args")
    if isinstance(config, Mapping):
        return config
    return vars(args) if isinstance(args, Namespace | SimpleNamespace) else {}


def class_names(args: Any, rows: int) -> dict[int, str]:
    """Return the class names by row. Which row a name belongs to depends on the version and the dataset's format."""
    values: Mapping[str, Any] = vars(args) if isinstance(args, Namespace | SimpleNamespace) else (args or {})
    names = values.get("class_names")
    if isinstance(names, Mapping):  # of COCO annotations: by category id
        return {int(row): str(name) for row, name in names.items()}
    if not names or (rows == COCO_ROWS and len(names) == COCO_NAMES):
        return {}
    first = 0
    if not isinstance(args, Mapping) and values.get("dataset_file") == "roboflow":
        first = 1  # row 0 is the supercategory of the export
    numbered = {first + index: str(name) for index, name in enumerate(names)}
    return {row: numbered.get(row, NO_OBJECT) for row in range(rows)}
