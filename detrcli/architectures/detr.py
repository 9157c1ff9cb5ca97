"""DETR as published (arXiv 2005.12872), and its tensor names in the published checkpoints and in transformers."""

import re
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from detrcli.architectures.architecture import StateDictAdapter
from detrcli.architectures.common import ResNetConfig, SoftmaxArchitecture, make_resnet
from detrcli.config import Count
from detrcli.errors import DetrError, WeightsError
from detrcli.model.detr import DETR
from detrcli.model.position import LearnedPosition, SinePosition
from detrcli.model.transformer import Decoder, Encoder

Rule = tuple[str, str | Callable[[re.Match[str]], str]]  # pattern and replacement

PUBLISHED: tuple[Rule, ...] = (
    (r"^module\.", ""),  # from DistributedDataParallel
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

# Of transformers 4 and 5, on disk and in memory, with timm's ResNet or transformers' own.
HUGGING_FACE: tuple[Rule, ...] = (
    (r"^model\.backbone\.(conv_encoder\.)?model\.", "backbone.body."),
    (r"^backbone\.body\.embedder\.embedder\.convolution\.", "backbone.body.conv1."),
    (r"^backbone\.body\.embedder\.embedder\.normalization\.", "backbone.body.bn1."),
    (r"^backbone\.body\.encoder\.stages\.(\d+)\.layers\.", lambda stage: f"backbone.body.layer{int(stage[1]) + 1}."),
    (r"\.layer\.(\d)\.convolution\.", lambda layer: f".conv{int(layer[1]) + 1}."),
    (r"\.layer\.(\d)\.normalization\.", lambda layer: f".bn{int(layer[1]) + 1}."),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.normalization\.", ".downsample.1."),
    (r"^model\.(backbone\.)?position_embedding\.(row|column)_embeddings\.", r"position.\2s."),
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

BACKBONES: dict[int, Literal["resnet50", "resnet101"]] = {6: "resnet50", 23: "resnet101"}  # by blocks of stage 3
COUNTER = "num_batches_tracked"


def rename(name: str, rules: Iterable[Rule]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def join_projections(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Concatenate the query, key and value projections of each attention module, as torch stores them."""
    joined = dict(tensors)
    for name in tensors:
        if match := re.fullmatch(r"(.*)\.q_proj\.(weight|bias)", name):
            names = [f"{match[1]}.{part}_proj.{match[2]}" for part in "qkv"]
            parts = [tensors[name] for name in names if name in tensors]
            # Others stay separate, for the report of tensors that do not fit.
            if len({part.shape[1:] for part in parts}) == 1 and all(map(Tensor.dim, parts)):
                joined[f"{match[1]}.in_proj_{match[2]}"] = torch.cat(parts)
                joined = {name: tensor for name, tensor in joined.items() if name not in names}
    return joined


class RenamingAdapter(StateDictAdapter[Any]):
    """An adapter that renames by rules."""

    model: str  # for messages
    mark: str  # the end of a tensor's name that tells the state dict
    rules: tuple[Rule, ...]

    def __init__(self, config: type[Any]) -> None:
        self.config = config

    def recognizes(self, names: Collection[str]) -> bool:
        return any(name.endswith(self.mark) for name in names)

    def rename(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {rename(name, self.rules): tensor for name, tensor in tensors.items() if not name.endswith(COUNTER)}

    def infer(self, source: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], wanted: Any) -> Any:
        not_these = f"{source}: these are not the weights of a {self.model} with ResNet-50 or ResNet-101: "
        try:
            return self.config(**self.fields(tensors, facts, wanted))
        except KeyError as missing:
            raise WeightsError(f"{not_these}{missing} is not among the {len(tensors)} tensors.") from None
        except (ValueError, TypeError, IndexError) as error:
            raise WeightsError(f"{not_these}a tensor has another name or shape ({error}).") from None
        except DetrError as error:
            raise WeightsError(f"{source}: {error}") from None

    @abstractmethod
    def fields(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], wanted: Any) -> dict[str, Any]:
        """Return the fields of the config. Exceptions are explained by `infer`."""


class DETRAdapter(RenamingAdapter):
    """Base class of the adapters for DETR."""

    model = "DETR"

    def fields(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], wanted: Any) -> dict[str, Any]:
        if any(name.startswith(("mask_head.", "bbox_attention.", "detr.")) for name in tensors):
            raise WeightsError(
                "these weights have a mask head under the names of transformers.\n"
                "Give the folder that transformers wrote."
            )
        queries, dim = tensors["queries.weight"].shape
        return {
            **shared_fields(tensors),
            "position": "learned" if "position.rows.weight" in tensors else "sine",
            "pre_norm": "encoder.norm.weight" in tensors,
            "decoder_layers": count(r"decoder\.layers\.(\d+)\.", tensors),
            "dim": dim,
            "queries": queries,
            "classes": len(tensors["class_head.weight"]) - 1,
        }


class PublishedDETR(DETRAdapter):
    mark = "transformer.encoder.layers.0.self_attn.in_proj_weight"
    rules = PUBLISHED

    def fields(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], wanted: Any) -> dict[str, Any]:
        known = {ours: facts[name] for name, ours in (("nheads", "heads"), ("dropout", "dropout")) if name in facts}
        return {**super().fields(tensors, facts, wanted), **known, "dilated": is_dilated(facts, wanted)}


class HuggingFaceDETR(DETRAdapter):
    mark = "encoder.layers.0.self_attn_layer_norm.weight"
    rules = HUGGING_FACE

    def rename(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return join_projections(super().rename(tensors))

    def fields(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], wanted: Any) -> dict[str, Any]:
        if facts.get("activation_function", "relu") != "relu":
            raise WeightsError(f"the activation is {facts['activation_function']!r}. Only 'relu' is read.")
        heads = facts.get("encoder_attention_heads", 8)
        if facts.get("decoder_attention_heads", 8) != heads:
            raise WeightsError("encoder and decoder have different numbers of attention heads.")
        stride = (facts.get("backbone_config") or {}).get("output_stride")
        dilated = bool(facts.get("dilation")) or stride == 16
        known = {"dilated": dilated, "heads": heads, "dropout": facts.get("dropout", 0.1)}
        return {**super().fields(tensors, facts, wanted), **known}


def is_dilated(args: Mapping[str, Any], wanted: Any) -> bool:
    """Return whether a model is a DC5: by the user's config, else the script's arguments, else the file's name."""
    if wanted is not None:
        return bool(wanted.dilated)
    return bool(args.get("dilation", "dc5" in str(args.get("file", "")).lower()))


def shared_fields(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the fields of backbone and encoder, which have the same names in all models with a ResNet."""
    return {
        "backbone": BACKBONES[count(r"backbone\.body\.layer3\.(\d+)\.conv3\.", tensors)],
        "encoder_layers": count(r"encoder\.layers\.(\d+)\.", tensors),
        "feed_forward": len(tensors["encoder.layers.0.feed_forward.linear1.weight"]),
    }


def count(pattern: str, names: Iterable[str]) -> int:
    """Return the highest number that the pattern's group matches in the names, plus 1."""
    return max((int(match[1]) for name in names if (match := re.match(pattern, name))), default=-1) + 1


@dataclass(frozen=True)
class DETRConfig(ResNetConfig):
    dilated: bool = False  # DC5: the last stage keeps its resolution
    position: Literal["sine", "learned"] = "sine"
    pre_norm: bool = False
    queries: Count = 100


class DETRArchitecture(SoftmaxArchitecture[DETRConfig]):
    name = "detr"
    config = DETRConfig
    presets: Mapping[str, DETRConfig] = {
        "detr-r50": DETRConfig(),
        "detr-r50-dc5": DETRConfig(dilated=True),
        "detr-r101": DETRConfig(backbone="resnet101"),
        "detr-r101-dc5": DETRConfig(backbone="resnet101", dilated=True),
    }
    published = PublishedDETR(DETRConfig)
    hugging_face: Mapping[str, HuggingFaceDETR] = {"detr": HuggingFaceDETR(DETRConfig)}

    def build(self, config: DETRConfig) -> DETR:
        c = config
        return DETR(
            backbone=make_resnet(c, dilated=c.dilated),
            position=LearnedPosition(c.dim) if c.position == "learned" else SinePosition(c.dim),
            encoder=Encoder(c.encoder_layers, c.dim, c.heads, c.feed_forward, c.dropout, pre_norm=c.pre_norm),
            decoder=Decoder(c.decoder_layers, c.dim, c.heads, c.feed_forward, c.dropout, pre_norm=c.pre_norm),
            dim=c.dim,
            queries=c.queries,
            rows=self.scoring(c).num_logits(c.classes),
        )

    def summary(self, config: DETRConfig) -> str:
        return config.backbone + (" dilated" if config.dilated else "")


ARCHITECTURE = DETRArchitecture()
