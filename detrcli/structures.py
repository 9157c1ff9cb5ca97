"""Values that pass between the parts of the package, with their shapes.

B images, Q queries, K classes, R class logits, N objects of an image, T objects of all images of a batch,
L decoder layers, P pairs, C channels, H and W pixels, h and w feature cells, S = h * w tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from detrcli.run_lengths import MaskRows


def _present_fields(instance: Any) -> dict[str, Any]:
    values = {field.name: getattr(instance, field.name) for field in fields(instance)}
    return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class _Tensors:
    """Base class of dataclasses whose fields are tensors or None, also those of their subclasses."""

    def to(self, device: torch.device) -> Self:
        """Copy to a device; from pinned memory without waiting."""
        return replace(self, **{name: t.to(device, non_blocking=True) for name, t in _present_fields(self).items()})

    def pin_memory(self) -> Self:
        """Copy to pinned memory; torch's DataLoader calls this."""
        return replace(self, **{name: tensor.pin_memory() for name, tensor in _present_fields(self).items()})


@dataclass(frozen=True)
class Batch(_Tensors):
    """Images of possibly different sizes, padded at the right and the bottom to a common size."""

    images: Tensor  # (B, 3, H, W), normalized
    padding: Tensor | None  # (B, H, W), True for padding; None if nothing is padded


@dataclass(frozen=True)
class Target(_Tensors):
    """The objects of an image. Every field has a row per object, so that subclasses can add fields."""

    labels: Tensor  # (N,), contiguous class indices
    boxes: Tensor  # (N, 4), cxcywh in [0, 1]
    masks: Tensor | None = field(default=None, kw_only=True)  # (N, H, W) bool, at the size of the network's input

    def __len__(self) -> int:
        return len(self.labels)


class Masks(Protocol):
    """Masks of queries, computed on request: a mask head runs once per query."""

    @property
    def input_size(self) -> tuple[int, int]:
        """H and W of the network's input, padding included, which the masks cover."""

    @property
    def by_corner(self) -> bool:
        """Whether an image pixel takes the value at its upper left corner, as published, or at its center."""

    def __call__(self, images: Tensor, queries: Tensor) -> Tensor:
        """Return the mask logits (P, h, w) of queries given by image index (P,) and query index (P,)."""


@dataclass(frozen=True)
class Prediction:
    """The predictions of a single layer."""

    logits: Tensor  # (B, Q, R), interpreted by a Scoring
    boxes: Tensor  # (B, Q, 4), cxcywh in [0, 1]; around the masks for models without boxes
    masks: Masks | None = None


@dataclass(frozen=True)
class Match:
    """Matched pairs of queries and objects: P pairs of a query group, over its layers and images."""

    layers: Tensor  # (P,), ascending
    images: Tensor  # (P,), ascending in each layer
    queries: Tensor  # (P,)
    targets: Tensor  # (P,), indices into all objects of the batch, 0..T-1

    def layer(self, index: int) -> Match:
        chosen = self.layers == index
        return Match(self.layers[chosen], self.images[chosen], self.queries[chosen], self.targets[chosen])


ObjectCounts = tuple[Sequence[int], int]  # objects of each image, and queries


@dataclass(frozen=True)
class QueryGroup:
    """A set of queries through all its layers: the decoder's, a denoising group, the encoder's proposals.

    Missing targets and pairs are the batch's objects and the result of the matcher. In training a model returns the
    same groups for every batch, also without objects: all processes and accumulated batches must agree on the
    normalizers of their losses.
    """

    name: str
    logits: Tensor  # (L, B, Q, R)
    boxes: Tensor  # (L, B, Q, 4), cxcywh in [0, 1]
    hidden: Tensor | None = None  # (L, B, Q, C), hidden states, the input of the heads
    targets: Sequence[Target] | None = None
    match: Match | None = None
    tokens: Tensor | None = None  # (B, Q), indices of the encoder tokens that the queries were selected from
    masks: Masks | None = None  # of the last layer
    mask_logits: Sequence[Tensor] | None = None  # (B, Q, h, w) of each layer, if the matching compares masks
    # For groups with targets of their own: their counts, given the object counts of a batch's images. Loss
    # normalizers are counted over all batches of a step before the group is computed.
    counts: Callable[[Sequence[int]], ObjectCounts] | None = None

    def __len__(self) -> int:
        return len(self.logits)

    def layer(self, index: int) -> Prediction:
        last = index in (-1, len(self) - 1)
        return Prediction(self.logits[index], self.boxes[index], self.masks if last else None)


@dataclass(frozen=True)
class Output:
    """The output of a forward pass."""

    decoder: QueryGroup
    others: tuple[QueryGroup, ...] = ()  # further supervised groups
    named: Mapping[str, Tensor] = field(default_factory=dict)  # inputs of other heads: features, memory
    maps: Sequence[Tensor] = ()  # feature maps of the backbone, (B, channels, h, w), finest first

    @property
    def groups(self) -> tuple[QueryGroup, ...]:
        return (self.decoder, *self.others)

    def with_masks(self, masks: Masks) -> Self:
        return replace(self, decoder=replace(self.decoder, masks=masks))

    @property
    def last(self) -> Prediction:
        return self.decoder.layer(-1)


MAX_CLASSES = 30_000
MAX_NAME_LENGTH = 1_000  # characters; an array of names reserves the longest length for each


def check_class_names(names: Sequence[str]) -> None:
    """Raise ValueError if the number or the length of the names would exhaust the memory."""
    if len(names) > MAX_CLASSES:
        raise ValueError(f"there are {len(names):,} classes, more than the {MAX_CLASSES:,} allowed")
    longest = max(names, key=len, default="")
    if len(longest) > MAX_NAME_LENGTH:
        limit = f"more than the {MAX_NAME_LENGTH:,} allowed"
        raise ValueError(f"the class name {longest[:20]!r}... has {len(longest):,} characters, {limit}")


@dataclass(frozen=True)
class Classes:
    """The ids and names of the dataset's classes, by class index."""

    ids: np.ndarray  # (K,), int64
    names: np.ndarray  # (K,), str
    things: np.ndarray | None = None  # (K,), bool, True for things, False for stuff; None if all are things

    @classmethod
    def of(cls, ids: Sequence[int], names: Sequence[str], things: Sequence[bool] | None = None) -> Self:
        """Create classes from lists read from a file. Raises ValueError for malformed lists."""
        import numpy as np  # slow to import, and rarely needed by modules that import this one

        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise ValueError("the class names are not a list of strings")
        check_class_names(names)
        numbers = np.array(ids, dtype=np.int64)
        if numbers.shape != (len(names),):
            raise ValueError(f"there are {len(names)} class names for ids of shape {numbers.shape}")
        if things is not None and (len(things) != len(names) or not all(type(thing) is bool for thing in things)):
            raise ValueError("things is not a list of a boolean per class")
        return cls(numbers, np.array(names, dtype=np.str_), None if things is None else np.array(things, bool))

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Detections:
    """The N detections of an image. A query may have several, where the model's scoring allows it."""

    boxes: np.ndarray  # (N, 4), xyxy in pixels, float32
    scores: np.ndarray  # (N,), class probabilities, float32
    category_ids: np.ndarray  # (N,), the dataset's ids
    queries: np.ndarray  # (N,), indices of the object queries; those of tiles follow those of the whole image
    labels: np.ndarray  # (N,), class names
    masks: MaskRows | None = field(default=None, kw_only=True)  # (N,), each (H, W); None if the model has no masks

    def __len__(self) -> int:
        return len(self.scores)

    def part(self, chosen: np.ndarray) -> Self:
        """Return the detections selected by indices or a boolean array."""
        return replace(self, **{name: value[chosen] for name, value in _present_fields(self).items()})

    def best_of_queries(self) -> Self:
        """Return the detection of the highest score of each query, in the same order."""
        best: dict[int, int] = {}
        for i in (-self.scores).argsort(kind="stable").tolist():
            best.setdefault(int(self.queries[i]), i)
        return self._rows(best.values())

    def highest(self, count: int) -> Self:
        """Return the `count` detections of the highest scores, in the same order."""
        return self._rows((-self.scores).argsort(kind="stable")[:count].tolist())

    def _rows(self, indices: Iterable[int]) -> Self:
        import numpy as np  # slow to import, and most users of this module do without

        return self.part(np.array(sorted(indices), dtype=np.int64))
