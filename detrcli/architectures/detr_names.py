"""How others name and keep the tensors of DETR."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor

from detrcli.architectures.architecture import StateDictAdapter
from detrcli.errors import DetrError, WeightsError

if TYPE_CHECKING:
    from detrcli.architectures.detr import DETRConfig

Rule = tuple[str, str | Callable[[re.Match[str]], str]]

# The published checkpoints'.
PUBLISHED: tuple[Rule, ...] = (
    (r"^module\.", ""),  # left by DistributedDataParallel
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

# Those of the mask head, where the detector's begin with "detr.".
MASK_HEAD: tuple[Rule, ...] = (
    (r"^bbox_attention\.q_linear\.", "mask_head.attention.query."),
    (r"^bbox_attention\.k_linear\.", "mask_head.attention.key."),
    (r"^mask_head\.lay(\d)\.", lambda layer: f"mask_head.convs.{int(layer[1]) - 1}."),
    (r"^mask_head\.gn(\d)\.", lambda layer: f"mask_head.norms.{int(layer[1]) - 1}."),
    (r"^mask_head\.adapter(\d)\.", lambda layer: f"mask_head.laterals.{int(layer[1]) - 1}."),
    (r"^mask_head\.out_lay\.", "mask_head.last."),
)

# Those of transformers 5 in memory; on disk it keeps the published ones, but for the detector's.
MASK_HEAD_IN_MEMORY: tuple[Rule, ...] = (
    (r"^bbox_attention\.q_proj\.", "mask_head.attention.query."),
    (r"^bbox_attention\.k_proj\.", "mask_head.attention.key."),
    (r"^mask_head\.conv(\d)\.(conv|norm)\.", lambda one: f"mask_head.{one[2]}s.{int(one[1]) - 1}."),
    (r"^mask_head\.fpn_stages\.(\d)\.fpn_adapter\.", r"mask_head.laterals.\1."),
    # Two convolutions come before the finer maps.
    (r"^mask_head\.fpn_stages\.(\d)\.refine\.(conv|norm)\.", lambda one: f"mask_head.{one[2]}s.{int(one[1]) + 2}."),
    (r"^mask_head\.output_conv\.", "mask_head.last."),
)


def _of_stage(match: re.Match[str]) -> str:
    stage, block, part = match[1], match[2], match[3]
    return f"backbone.body.layer{int(stage) + 1}.{block}.{part}"


def _of_block(match: re.Match[str]) -> str:
    kind = {"convolution": "conv", "normalization": "bn"}[match[2]]
    return f".{kind}{int(match[1]) + 1}."


# Those of transformers 4 and 5, on disk and in memory, over timm's ResNet or transformers' own.
HUGGING_FACE: tuple[Rule, ...] = (
    (r"^model\.backbone\.(conv_encoder\.)?model\.", "backbone.body."),
    (r"^backbone\.body\.embedder\.embedder\.convolution\.", "backbone.body.conv1."),
    (r"^backbone\.body\.embedder\.embedder\.normalization\.", "backbone.body.bn1."),
    (r"^backbone\.body\.encoder\.stages\.(\d+)\.layers\.(\d+)\.(.*)", _of_stage),
    (r"\.layer\.(\d)\.(convolution|normalization)\.", _of_block),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.normalization\.", ".downsample.1."),
    (r"^model\.(backbone\.)?position_embedding\.row_embeddings\.", "position.rows."),
    (r"^model\.(backbone\.)?position_embedding\.column_embeddings\.", "position.columns."),
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


def rename(name: str, rules: tuple[Rule, ...]) -> str:
    """Our name of a tensor that others name by these rules, which apply one after the other."""
    for theirs, ours in rules:
        name = re.sub(theirs, ours, name)
    return name


def join_projections(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Query, key and value projections that are stored apart, as the one tensor that attention holds."""
    joined: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        apart = re.fullmatch(r"(.*)\.([qkv])_proj\.(weight|bias)", name)
        if not apart:
            joined[name] = tensor
        elif apart[2] == "q":
            names = [f"{apart[1]}.{part}_proj.{apart[3]}" for part in "qkv"]
            three = {one: tensors[one] for one in names if one in tensors}
            if len({part.shape[1:] for part in three.values()}) == 1 and all(map(Tensor.dim, three.values())):
                joined[f"{apart[1]}.in_proj_{apart[3]}"] = torch.cat([*three.values()])
            else:
                joined |= three  # which fit no model, and are told so by their names
    return joined


COUNTER = "num_batches_tracked"

# By the number of blocks in their third stage.
BACKBONES: dict[int, Literal["resnet50", "resnet101"]] = {6: "resnet50", 23: "resnet101"}


def published(config: "type[DETRConfig]") -> "StateDictAdapter[DETRConfig]":
    """A state dict of the published training script, with that script's args."""

    def infer(
        source: str, tensors: Mapping[str, Tensor], args: Mapping[str, Any], wanted: "DETRConfig | None"
    ) -> "DETRConfig":
        ours = {"nheads": "heads", "dropout": "dropout"}
        known: dict[str, Any] = {ours[name]: args[name] for name in ours if name in args}
        # Tensors do not show DC5: the model's name says it, else the args, else the file's name.
        if wanted is not None:
            known["dilated"] = wanted.dilated
        else:
            known["dilated"] = bool(args.get("dilation", "dc5" in str(args.get("file", "")).lower()))
        return _infer(config, source, tensors, known)

    def names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {rename(name, PUBLISHED): tensor for name, tensor in tensors.items() if not name.endswith(COUNTER)}

    return StateDictAdapter(lambda names: _is_detr(names) and not _has_masks(names), names, infer)


def published_with_masks(config: "type[DETRConfig]", detector: str) -> "StateDictAdapter[Any]":
    """The same of a detector with a mask head; `detector` stands before the names of the first."""
    alone = published(config)

    def infer(source: str, tensors: Mapping[str, Tensor], args: Mapping[str, Any], wanted: Any) -> Any:
        inner = _of_detector(tensors, detector)
        first, queries = tensors.get("mask_head.convs.0.bias"), inner.get("queries.weight")
        if first is not None and queries is not None and queries.dim() == 2:
            # It gets the features and a map of each head.
            args = {**args, "nheads": first.numel() - queries.shape[1]}
        return alone.infer(source, inner, args, wanted)

    def names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {masked_name(name, detector): tensor for name, tensor in tensors.items() if not name.endswith(COUNTER)}

    return StateDictAdapter(_has_masks, names, infer)


def masked_name(name: str, detector: str) -> str:
    """Our name of a tensor of a published detector with a mask head."""
    name = name.removeprefix("module.")  # left by DistributedDataParallel
    if name.startswith("detr."):
        return detector + rename(name.removeprefix("detr."), PUBLISHED)
    return rename(name, MASK_HEAD)


def hugging_face(config: "type[DETRConfig]") -> "StateDictAdapter[DETRConfig]":
    """The tensors of transformers, with its config.json."""

    def infer(
        source: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], wanted: "DETRConfig | None"
    ) -> "DETRConfig":
        if facts.get("activation_function", "relu") != "relu":
            raise WeightsError(f"{source}: its activation is {facts['activation_function']!r}; only 'relu' is built.")
        if facts.get("decoder_attention_heads", 8) != facts.get("encoder_attention_heads", 8):
            raise WeightsError(f"{source}: encoder and decoder have different numbers of attention heads.")
        stride = (facts.get("backbone_config") or {}).get("output_stride")
        known = {
            "dilated": bool(facts.get("dilation")) or stride == 16,
            "heads": facts.get("encoder_attention_heads", 8),
            "dropout": facts.get("dropout", 0.1),
        }
        return _infer(config, source, tensors, known)

    def names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return join_projections(
            {rename(name, HUGGING_FACE): tensor for name, tensor in tensors.items() if not name.endswith(COUNTER)}
        )

    return StateDictAdapter(lambda names: not _has_masks_of_transformers(names), names, infer)


def hugging_face_with_masks(config: "type[DETRConfig]", detector: str) -> "StateDictAdapter[Any]":
    """The same of a detector with a mask head; `detector` stands before the names of the first."""
    alone = hugging_face(config)

    def infer(source: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], wanted: Any) -> Any:
        return alone.infer(source, _of_detector(tensors, detector), facts, wanted)

    def names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        inner = alone.rename(
            {name.removeprefix("detr."): one for name, one in tensors.items() if name.startswith("detr.")}
        )
        head = {
            rename(name, (*MASK_HEAD, *MASK_HEAD_IN_MEMORY)): one
            for name, one in tensors.items()
            if not name.startswith("detr.")
        }
        return {detector + name: one for name, one in inner.items()} | head

    return StateDictAdapter(_has_masks_of_transformers, names, infer)


def _has_masks_of_transformers(names: Collection[str]) -> bool:
    return any(name.startswith("bbox_attention.") for name in names)


def _of_detector(tensors: Mapping[str, Tensor], detector: str) -> dict[str, Tensor]:
    """The tensors of a detector, without what stands before their names."""
    return {name.removeprefix(detector): tensor for name, tensor in tensors.items() if name.startswith(detector)}


def _has_masks(names: Collection[str]) -> bool:
    return any("mask_head.lay1." in name for name in names)


def _is_detr(names: Collection[str]) -> bool:
    return any(name.endswith("transformer.encoder.layers.0.self_attn.in_proj_weight") for name in names)


def _infer(
    config: "type[DETRConfig]", source: str, tensors: Mapping[str, Tensor], known: Mapping[str, Any]
) -> "DETRConfig":
    """What a model must look like to hold these tensors; `known` says what they cannot tell."""
    if any(name.startswith(("mask_head.", "bbox_attention.", "detr.")) for name in tensors):
        raise WeightsError(
            f"{source}: these weights have a mask head under the names of transformers: give the folder it wrote."
        )

    def make() -> "DETRConfig":
        queries, dim = tensors["queries.weight"].shape
        heads = known.get("heads", config.heads)
        if not isinstance(heads, int) or heads < 1 or dim % heads:
            raise DetrError(f"{heads!r} attention heads do not divide {dim} dimensions.")
        return config(
            backbone=BACKBONES[count(r"backbone\.body\.layer3\.(\d+)\.conv3\.", tensors)],
            position="learned" if "position.rows.weight" in tensors else "sine",
            pre_norm="encoder.norm.weight" in tensors,
            encoder_layers=count(r"encoder\.layers\.(\d+)\.", tensors),
            decoder_layers=count(r"decoder\.layers\.(\d+)\.", tensors),
            dim=dim,
            feed_forward=len(tensors["encoder.layers.0.feed_forward.linear1.weight"]),
            queries=queries,
            classes=len(tensors["class_head.weight"]) - 1,
            **known,
        )

    return inferred(source, tensors, "DETR", make)


C = TypeVar("C")


def inferred(source: str, tensors: Mapping[str, Tensor], what: str, make: Callable[[], C]) -> C:
    """A config that is read off tensors; a WeightsError where they are not those of such a model."""
    not_those = f"{source}: these are not the weights of a {what} with ResNet-50 or ResNet-101: "
    try:
        return make()
    except KeyError as missing:
        raise WeightsError(f"{not_those}{missing} was looked for among {len(tensors)} tensors.") from None
    except (ValueError, TypeError, IndexError) as error:
        raise WeightsError(f"{not_those}a tensor has another name or shape ({error}).") from None
    except DetrError as error:
        raise WeightsError(f"{source}: {error}") from None


def count(pattern: str, names: Iterable[str]) -> int:
    """How many of something there are that names number from 0."""
    found = [int(match[1]) for name in names if (match := re.match(pattern, name))]
    return max(found, default=-1) + 1
