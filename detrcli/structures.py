"""What flows between the rooms, each with its shapes.

B images, Q queries, K classes, R rows of the class head, N objects of an image, T objects of all images of a batch,
L decoder layers, P pairs, C channels, H and W pixels, h and w feature cells, S = h * w tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from detrcli.run_lengths import MaskRows


@dataclass(frozen=True)
class Batch:
    """Pictures of possibly different sizes, padded at the right and the bottom to one size."""

    images: Tensor  # (B, 3, H, W), normalised
    padding: Tensor | None  # (B, H, W), True where there is no picture; None where nothing is padded

    def to(self, device: torch.device) -> Batch:
        """The same on another device; from pinned memory without waiting for it."""
        padding = None if self.padding is None else self.padding.to(device, non_blocking=True)
        return Batch(self.images.to(device, non_blocking=True), padding)

    def pin_memory(self) -> Batch:
        """The same in memory that a GPU reads by itself; a loader asks for it by this name."""
        return Batch(self.images.pin_memory(), None if self.padding is None else self.padding.pin_memory())


@dataclass(frozen=True)
class Target:
    """The objects of one image. Every field has a row per object, so that new ones pass wherever these do."""

    labels: Tensor  # (N,), contiguous class indices
    boxes: Tensor  # (N, 4), cx, cy, w, h in [0, 1]
    # (N, H, W) bool, in the network's input; None where nobody needs them
    masks: Tensor | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Self:
        """The same on another device; from pinned memory without waiting for it."""
        return replace(self, **{name: one.to(device, non_blocking=True) for name, one in self._known()})

    def pin_memory(self) -> Self:
        """The same in memory that a GPU reads by itself; a loader asks for it by this name."""
        return replace(self, **{name: one.pin_memory() for name, one in self._known()})

    def _known(self) -> list[tuple[str, Tensor]]:
        every = ((one.name, getattr(self, one.name)) for one in fields(self))
        return [(name, tensor) for name, tensor in every if tensor is not None]


class Masks(Protocol):
    """Which pixels are a query's, computed for those that are asked for: a mask head runs once per query."""

    @property
    def input_size(self) -> tuple[int, int]:
        """H and W of the network's input, padding included, which the masks cover."""

    @property
    def by_corner(self) -> bool:
        """Whether a picture's pixel takes what lies at its upper left corner, as published, or at its middle."""

    def __call__(self, images: Tensor, queries: Tensor) -> Tensor:
        """Mask logits of some queries, by their images (P,) and numbers (P,): (P, h, w)."""


@dataclass(frozen=True)
class Prediction:
    """What the heads say of every query, in one layer."""

    logits: Tensor  # (B, Q, R), which a Scoring makes sense of
    boxes: Tensor  # (B, Q, 4), cx, cy, w, h in [0, 1]; those around the masks where no head makes them
    masks: Masks | None = None


@dataclass(frozen=True)
class Match:
    """Which query is matched to which object: the P pairs of one group, over all its layers and images."""

    layers: Tensor  # (P,), ascending
    images: Tensor  # (P,), ascending in each layer
    queries: Tensor  # (P,)
    targets: Tensor  # (P,), counted through all images of the batch, 0..T-1

    def layer(self, index: int) -> Match:
        """The pairs of one layer."""
        here = self.layers == index
        return Match(self.layers[here], self.images[here], self.queries[here], self.targets[here])


ObjectCounts = tuple[Sequence[int], int]  # objects of each image, and queries


@dataclass(frozen=True)
class QueryGroup:
    """One set of queries through all its layers: the decoder's, a denoising group, the encoder's proposals.

    What it leaves out is taken from the batch: its objects, and the pairs that the matcher finds. In training a model
    gives the same groups for every batch, also for one without objects: processes and accumulated batches agree on
    what their losses are divided by.
    """

    name: str
    logits: Tensor  # (L, B, Q, R)
    boxes: Tensor  # (L, B, Q, 4), cx, cy, w, h in [0, 1]
    hidden: Tensor | None = None  # (L, B, Q, C), what the heads saw
    targets: Sequence[Target] | None = None  # its own objects
    match: Match | None = None  # its own pairs
    tokens: Tensor | None = None  # (B, Q), those of the encoder that its queries were chosen from
    masks: Masks | None = None  # of the last layer
    # The group's own counts for the objects of a batch's images, where they are not the batch's: what its losses are
    # divided by is counted over all batches of a step, most of which it has not seen.
    counts: Callable[[Sequence[int]], ObjectCounts] | None = None

    def __len__(self) -> int:
        return len(self.logits)

    def layer(self, index: int) -> Prediction:
        """One layer's predictions."""
        last = index in (-1, len(self) - 1)
        return Prediction(self.logits[index], self.boxes[index], self.masks if last else None)


@dataclass(frozen=True)
class Output:
    """All that a forward pass predicts."""

    decoder: QueryGroup
    others: tuple[QueryGroup, ...] = ()  # supervised beside it
    named: Mapping[str, Tensor] = field(default_factory=dict)  # what other heads need: features, memory
    maps: Sequence[Tensor] = ()  # likewise the backbone's, (B, channels, h, w), the finest first

    @property
    def groups(self) -> tuple[QueryGroup, ...]:
        """Every supervised group, the decoder's first."""
        return (self.decoder, *self.others)

    def with_masks(self, masks: Masks) -> Self:
        """The same with masks of the decoder's queries."""
        return replace(self, decoder=replace(self.decoder, masks=masks))

    @property
    def last(self) -> Prediction:
        """What is said in the end: the decoder's last layer."""
        return self.decoder.layer(-1)


MOST_CLASSES = 30_000
LONGEST_NAME = 1_000  # characters; an array of names gives to each the room of the longest


def check_class_names(names: Sequence[str]) -> None:
    """A ValueError for more classes, or longer names, than anybody has: they would fill the memory."""
    if len(names) > MOST_CLASSES:
        raise ValueError(f"there are {len(names):,} classes, more than the {MOST_CLASSES:,} allowed")
    longest = max(names, key=len, default="")
    if len(longest) > LONGEST_NAME:
        raise ValueError(
            f"the class name {longest[:20]!r}... has {len(longest):,} characters, more than the "
            f"{LONGEST_NAME:,} allowed"
        )


@dataclass(frozen=True)
class Classes:
    """What a class index means: the data's own ids and names, which travel with the weights."""

    ids: np.ndarray  # (K,), int64
    names: np.ndarray  # (K,), str
    things: np.ndarray | None = None  # (K,), bool, those that are no stuff; None: all of them

    @classmethod
    def of(cls, ids: Sequence[int], names: Sequence[str], things: Sequence[bool] | None = None) -> Self:
        """From lists that a file holds; a ValueError where they are none of classes."""
        import numpy as np  # slow to import, and most who come here want names alone

        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise ValueError("the class names are no list of words")
        check_class_names(names)
        numbers = np.array(ids, dtype=np.int64)
        if numbers.shape != (len(names),):
            raise ValueError(f"there are {len(names)} class names for ids of shape {numbers.shape}")
        if things is not None and (len(things) != len(names) or not all(type(one) is bool for one in things)):
            raise ValueError("which classes are things is not said of each of them")
        return cls(numbers, np.array(names, dtype=np.str_), None if things is None else np.array(things, bool))

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Detections:
    """What was found in one picture, N of it. A query may stand in several where the model's scoring allows it."""

    boxes: np.ndarray  # (N, 4), x0, y0, x1, y1 in pixels, float32
    scores: np.ndarray  # (N,), the class probability, float32
    category_ids: np.ndarray  # (N,), the data's own ids
    queries: np.ndarray  # (N,), which object query found it
    labels: np.ndarray  # (N,), names of the classes
    # (N,), each (H, W); None where the model has none
    masks: MaskRows | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.scores)

    def part(self, chosen: np.ndarray) -> Self:
        """Some of them."""
        every = ((one.name, getattr(self, one.name)) for one in fields(self))
        return replace(self, **{name: value[chosen] for name, value in every if value is not None})
