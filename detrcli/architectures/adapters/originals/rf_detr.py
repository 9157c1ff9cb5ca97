"""Checkpoints of the package `rfdetr`, versions 1.0 to 1.11 (github.com/roboflow/rf-detr)."""

import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
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
BASE_RESOLUTION = 560  # of the models with patches of 14 pixels, whose position grid is smaller
SEG_NANO = (26, 100)  # side of the position grid and queries of the only model with a single window
BACKBONE, DECODER = "backbone.0.encoder.encoder.", "transformer.decoder.layers."


class RfDetr(Repository):
    """The package `rfdetr`. transformers knows its tensor names, so that they stay."""

    mark = BACKBONE + "embeddings."
    states = ("model", "state_dict")

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
        queries = shape(tensors, "refpoint_embed.weight", source)[0] // max(groups, 1)
        points = 2 if width == 256 else 4
        if patch not in WINDOWS:
            raise WeightsError(f"{source}: an RF-DETR with patches of {patch} pixels is not supported.")
        windows = 1 if (side, queries) == SEG_NANO else WINDOWS[patch]
        resolution = facts.get("resolution") or (BASE_RESOLUTION if patch == 14 else side * patch)
        stages: Sequence[int] = facts.get("out_feature_indexes") or STAGES[patch]
        config = {
            "d_model": width,
            "decoder_layers": count(tensors, r"transformer\.decoder\.layers\.(\d+)\."),
            "decoder_self_attention_heads": facts.get("sa_nheads") or width // 32,
            "decoder_cross_attention_heads": shape(tensors, DECODER + "0.cross_attn.attention_weights.weight", source)[
                0
            ]
            // points,
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
                "num_windows": facts.get("num_windows") or windows,
                "layer_norm_eps": 1e-6,
                "out_features": [f"stage{stage}" for stage in stages],
            },
        }
        processor = {"size": {"height": int(resolution), "width": int(resolution)}}
        if facts.get("num_select"):
            config["num_select"] = int(facts["num_select"])
        kept = {name: tensor for name, tensor in tensors.items() if name != "_kp_active_mask"}
        return Converted(
            "rf_detr", "RfDetrForObjectDetection", config, kept, processor, class_names(content.get("args"), rows)
        )


def _check(tensors: Mapping[str, Tensor], source: str) -> None:
    unsupported = {
        "the RF-DETR large of 2025, with two levels of features": "backbone.0.projector.stages_sampling.",
        "RF-DETR with key points": "keypoint_embed.",
        "RF-DETR with a LoRA adapter that was not merged": "backbone.0.encoder.base_model.",
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
