"""The interface of a repository's checkpoints, and what their conversions share."""

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from detrcli.errors import WeightsError

Rules = Sequence[tuple[str, str]]  # regular expressions and their replacements, applied in order
UNUSED = r"^decoder\.(anchors|valid_mask)$"
COMPILED, LIGHTNING = "_orig_mod.", "model."


@dataclass(frozen=True)
class Converted:
    """A checkpoint in the terms of transformers."""

    model_type: str
    network: str  # its class
    facts: Mapping[str, Any]  # config.json
    tensors: Mapping[str, Tensor]  # under the names of transformers
    processor: Mapping[str, Any]  # preprocessor_config.json
    names: Mapping[int, str] = field(default_factory=dict)  # of the classes, by their row; empty: COCO's
    has_masks: bool = False


class Repository(ABC):
    """A repository that published checkpoints of a family."""

    mark: str  # in the names of its tensors, and of no other repository's
    states: Sequence[str]  # where a checkpoint can have its tensors, in the order in which its own tools prefer them

    def recognizes(self, names: Collection[str]) -> bool:
        """Return whether tensors of these names are from this repository."""
        return any(self.mark in name for name in names)

    @abstractmethod
    def convert(self, tensors: Mapping[str, Tensor], content: Mapping[str, Any], file: str, source: str) -> Converted:
        """Convert a checkpoint. Raises WeightsError, which names `source`, for models that transformers lacks."""


def state_dict(content: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Tensor]:
    """Return the tensors under the first of the dotted keys that the checkpoint has; else those at its top."""
    for key in keys:
        value: Any = content
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, Mapping):
            break
    else:
        value = content
    tensors = {str(name): tensor for name, tensor in value.items() if isinstance(tensor, Tensor)}
    return {_bare(name): tensor for name, tensor in tensors.items() if not re.search(UNUSED, name)}


def _bare(name: str) -> str:
    """Return the name without the prefixes of wrappers."""
    for prefix in ("module.", LIGHTNING, COMPILED):
        name = name.removeprefix(prefix)
    return name


def rename(tensors: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """Apply the rules to all names, and split joint projections of queries, keys and values."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        if joint := re.fullmatch(r"(.*)\.(?:in_proj_|qkv\.)(weight|bias)", name):
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{joint[1]}.{letter}_proj.{joint[2]}"] = part
        else:
            renamed[name] = tensor
    return renamed


def shape(tensors: Mapping[str, Tensor], name: str, source: str) -> Sequence[int]:
    """Return the shape of a tensor. Raises WeightsError if it is missing."""
    if name not in tensors:
        raise WeightsError(f"{source}: the tensor {name} is missing.")
    return tensors[name].shape


def count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """Return the number of different numbers that the group of the pattern matches in the tensors' names."""
    return len({match[1] for name in tensors if (match := re.match(pattern, name))})
