"""Weights: a model's tensors with all that it takes to use them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from detrcli.config import Preprocessing
from detrcli.errors import WeightsError
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.structures import Classes
from detrcli.system.text import some
from detrcli.variants import build
from detrcli.variants.detr import DETRConfig
from detrcli.variants.variant import ModelConfig
from detrcli.weights.coco import NAMES

# By the number of blocks in their third stage.
_BACKBONES: dict[int, Literal["resnet50", "resnet101"]] = {6: "resnet50", 23: "resnet101"}


NO_MASKS = "{}: these weights have a mask head (panoptic segmentation), which is not in this version yet."


@dataclass(frozen=True)
class Weights:
    """A model's tensors under our names, how it is built, what its classes mean, what it wants to see."""

    source: str  # what the user called them
    config: ModelConfig
    tensors: Mapping[str, Tensor]
    classes: Classes
    preprocessing: Preprocessing

    def resized(self, size: int | None = None, max_size: int | None = None) -> "Weights":
        """The same weights, shown pictures of another size."""
        ours = self.preprocessing
        wanted = replace(ours, size=size or ours.size, max_size=max_size or ours.max_size)
        return replace(self, preprocessing=wanted)

    def model(self) -> DetectionTransformer:
        """A network of its own with these weights, for inference: what becomes of it leaves them as they are."""
        with torch.device("meta"):  # no random start that would be thrown away
            model = build(self.config)
        wanted = model.state_dict()
        explain_mismatch(self.source, wanted, self.tensors)
        broken = [name for name, tensor in self.tensors.items() if not tensor.isfinite().all()]
        if broken:
            raise WeightsError(
                f"{self.source}: {len(broken)} tensors hold numbers that are not finite: {some(sorted(broken), 3)}."
            )
        fitting = {name: tensor.to(wanted[name].dtype, copy=True) for name, tensor in self.tensors.items()}
        model.load_state_dict(fitting, assign=True)
        return model.eval()


def infer_config(source: str, tensors: Mapping[str, Tensor], known: Mapping[str, Any]) -> DETRConfig:
    """What a model must look like to hold these tensors; `known` says what they cannot tell."""
    if any(name.startswith(("mask_head.", "bbox_attention.", "detr.")) for name in tensors):
        raise WeightsError(NO_MASKS.format(source))
    try:
        queries, dim = tensors["queries.weight"].shape
        heads = known.get("heads", DETRConfig.heads)
        if not isinstance(heads, int) or heads < 1 or dim % heads:
            raise WeightsError(f"{source}: {heads!r} attention heads do not divide {dim} dimensions.")
        return DETRConfig(
            backbone=_BACKBONES[_count(r"backbone\.body\.layer3\.(\d+)\.conv3\.", tensors)],
            position="learned" if "position.rows.weight" in tensors else "sine",
            pre_norm="encoder.norm.weight" in tensors,
            encoder_layers=_count(r"encoder\.layers\.(\d+)\.", tensors),
            decoder_layers=_count(r"decoder\.layers\.(\d+)\.", tensors),
            dim=dim,
            feed_forward=len(tensors["encoder.layers.0.feed_forward.linear1.weight"]),
            queries=queries,
            classes=len(tensors["class_head.weight"]) - 1,
            **known,
        )
    except (KeyError, ValueError) as missing:
        raise WeightsError(
            f"{source}: these are not the weights of a DETR with ResNet-50 or ResNet-101: "
            f"{missing} was looked for among {len(tensors)} tensors."
        ) from None


def _count(pattern: str, names: Iterable[str]) -> int:
    found = [int(match[1]) for name in names if (match := re.match(pattern, name))]
    return max(found, default=-1) + 1


def explain_mismatch(source: str, wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raise a WeightsError that says which tensors do not fit, if any."""
    shapes = [
        f"{name} is {_shape(given[name])} for {_shape(wanted[name])}"
        for name in wanted.keys() & given.keys()
        if given[name].shape != wanted[name].shape
    ]
    differences = {
        "missing": wanted.keys() - given.keys(),
        "left over": given.keys() - wanted.keys(),
        "of another shape": shapes,
    }
    said = [f"{len(names)} {what}: {some(sorted(names), 3)}" for what, names in differences.items() if names]
    if said:
        raise WeightsError(f"{source}: the tensors do not fit the model. " + "; ".join(said) + ".")


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))


def classes_by_index(count: int) -> Classes:
    """Classes of weights that do not name them: COCO's where there are 91, else numbers."""
    names = NAMES if count == len(NAMES) else [f"class {index}" for index in range(count)]
    return Classes(ids=np.arange(count), names=np.array(names))
