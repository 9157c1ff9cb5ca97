"""Mask heads on a detector: which pixels are a query's (section 4 of arXiv 2005.12872, section 3 of 2206.02777).

B images, Q queries, P of them that are asked for, C channels, h and w the cells of the map that masks are made on.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import is_autocast_available

from detrcli.model.backbone import Backbone
from detrcli.model.detection_transformer import DetectionTransformer, Frozen
from detrcli.model.detr import downsample_padding
from detrcli.structures import Batch, Output, Target

LEAST_WIDTH = 16  # of a pixel's embedding
FALL = 4.0  # of a mask's logits, with each cell that a pixel lies further outside of the query's box


@dataclass(frozen=True)
class MaskHeadInputs:
    """What a mask head looks at."""

    hidden: Tensor  # (B, Q, C), the decoder's last output
    boxes: Tensor  # (B, Q, 4), cx, cy, w, h in [0, 1], what is predicted from it
    features: Tensor  # (B, C, h, w), what the encoder was given, on the finest map that it sees
    memory: Tensor  # (B, C, h, w), what it made of that
    padding: Tensor | None  # (B, h, w)
    finer: Sequence[Tensor]  # finer maps, the finest first: the backbone's, and perhaps the picture itself


OfQueries = Callable[[Tensor, Tensor], Tensor]  # by their images (P,) and numbers (P,)


@dataclass(frozen=True)
class HeadOutput:
    """What a mask head computes of the queries that it is asked for."""

    masks: OfQueries  # logits (P, h, w)
    # Which cells it goes by, (P, heads, h, w), summing to 1 over heads and cells; None where nobody is shown that.
    attention: OfQueries | None = None


class MaskHead(nn.Module, ABC):
    """A mask head of any kind: once per picture what all queries share, then a mask per query."""

    by_corner = False
    heads = 1  # of its attention

    @abstractmethod
    def forward(self, seen: MaskHeadInputs) -> HeadOutput: ...


@dataclass(frozen=True)
class QueryMasks:
    """The masks of a batch, in the precision that its forward pass had."""

    input_size: tuple[int, int]
    head: HeadOutput
    precision: Callable[[], AbstractContextManager[object]]
    by_corner: bool
    heads: int = 1

    def __call__(self, images: Tensor, queries: Tensor) -> Tensor:
        with self.precision():
            return self.head.masks(images, queries).float()

    def attention(self, images: Tensor, queries: Tensor) -> Tensor:
        """Which cells the head goes by, (P, heads, h, w), summing to 1 over heads and cells."""
        assert self.head.attention is not None
        with self.precision():
            return self.head.attention(images, queries).float()


class Segmenter(DetectionTransformer):
    """A detector with a mask head on it, which takes all it needs from the detector's output."""

    has_masks = True

    def __init__(
        self, detector: DetectionTransformer, mask_head: MaskHead, *, sees: int = -1, picture: bool = False
    ) -> None:
        """`sees` is the finest of the backbone's maps that the encoder sees; with `picture` the head has that too."""
        super().__init__()
        self.detector = detector
        self.mask_head = mask_head
        self.sees = sees
        self.picture = picture
        self._frozen = False
        self.open_batch = detector.open_batch
        self.may_leave_out = detector.may_leave_out
        self.casts_itself = detector.casts_itself

    def train(self, mode: bool = True) -> Self:
        """A detector that stays as it is computes as it does for inference."""
        super().train(mode)
        if self._frozen:
            self.detector.eval()
        return self

    @property
    def backbone(self) -> Backbone:  # type: ignore[override]  # it lies in the detector
        """The detector's."""
        return self.detector.backbone

    def replace_backbone(self, backbone: nn.Module) -> None:
        self.detector.replace_backbone(backbone)

    def without_gradient(self) -> Sequence[nn.Parameter]:
        return self.detector.without_gradient()

    def freeze(self, part: Frozen) -> None:
        """With "detector" the mask head alone learns: the second step of the paper's training."""
        self._frozen = part == "detector"
        self.detector.requires_grad_(not self._frozen)
        if part != "detector":
            self.detector.freeze(part)
        self.train(self.training)

    def forward(self, batch: Batch, targets: Sequence[Target] | None = None) -> Output:
        output: Output = self.detector(batch, targets)
        assert output.decoder.hidden is not None
        rows, columns = output.maps[self.sees].shape[-2:]
        memory = output.named["memory"][:, : rows * columns].mT  # (B, C, h * w)
        memory = memory.reshape(*memory.shape[:2], rows, columns)
        features = output.named.get("features", memory)
        seen = MaskHeadInputs(
            hidden=output.decoder.hidden[-1],
            boxes=output.decoder.boxes[-1],
            features=features,
            memory=memory,
            padding=downsample_padding(batch.padding, memory),
            finer=[*([batch.images] if self.picture else []), *output.maps[: self.sees]],
        )
        height, width = batch.images.shape[-2:]
        head = self.mask_head
        return output.with_masks(
            QueryMasks((height, width), head(seen), precision_now(memory.device), head.by_corner, head.heads)
        )


def precision_now(device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """Autocast as it is now, for what is computed after it was left."""
    kind = device.type
    if not is_autocast_available(kind):
        return nullcontext
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    return partial(torch.autocast, kind, dtype, enabled)


class AttentionMaps(nn.Module):
    """How each query looks at the memory, by a softmax over all heads and cells together, as published."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        for linear in (self.query, self.key):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def keys(self, memory: Tensor) -> Tensor:
        """Memory (B, C, h, w) to its keys (B, heads, C / heads, h, w)."""
        keys: Tensor = self.key(memory.movedim(1, -1)).movedim(-1, 1)  # (B, C, h, w)
        return keys.reshape(len(keys), self.heads, -1, *keys.shape[2:])

    def forward(self, hidden: Tensor, keys: Tensor, padding: Tensor | None) -> Tensor:
        """Queries (P, C), keys of their images (P, heads, C / heads, h, w), padding (P, h, w) to (P, heads, h, w)."""
        queries = self.query(hidden).view(len(hidden), self.heads, keys.shape[2])  # (P, heads, C / heads)
        scale = queries.shape[-1] ** -0.5
        weights = torch.einsum("phc,phcyx->phyx", queries * scale, keys)
        if padding is not None:
            weights = weights.masked_fill(padding[:, None], -torch.inf)
        return weights.flatten(1).softmax(1).view(weights.shape)


class ConvolutionalMaskHead(MaskHead):
    """The published one: attention maps beside the features, refined by convolutions over ever finer maps."""

    by_corner = True  # half a pixel off, and what its published numbers were measured with

    def __init__(self, dim: int, heads: int, finer: Sequence[int]) -> None:
        """`finer` are the channels of the finer maps, the finest first."""
        super().__init__()
        self.heads = heads
        self.attention = AttentionMaps(dim, heads)
        first = dim + heads
        widths = [first, first, *(dim // 2**i for i in range(1, len(finer) + 2))]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.GroupNorm(math.gcd(8, width), width) for width in widths[1:])
        self.laterals = nn.ModuleList(
            nn.Conv2d(channels, width, 1) for channels, width in zip(reversed(finer), widths[2:], strict=False)
        )
        self.last = nn.Conv2d(widths[-1], 1, 3, padding=1)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_uniform_(conv.weight, a=1)
                assert conv.bias is not None
                nn.init.zeros_(conv.bias)

    def forward(self, seen: MaskHeadInputs) -> HeadOutput:
        keys = self.attention.keys(seen.memory)
        laterals = [
            lateral(map_) for lateral, map_ in zip(self.laterals, reversed(seen.finer), strict=True)
        ]  # each (B, width, h, w), the coarsest first

        def attention(images: Tensor, queries: Tensor) -> Tensor:
            padding = None if seen.padding is None else seen.padding[images]
            maps: Tensor = self.attention(seen.hidden[images, queries], keys[images], padding)
            return maps  # (P, heads, h, w)

        def masks(images: Tensor, queries: Tensor) -> Tensor:
            x = torch.cat([seen.features[images], attention(images, queries)], 1)
            for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
                x = norm(conv(x)).relu()
                if 1 <= i <= len(laterals):
                    finer = laterals[i - 1][images]
                    x = finer + F.interpolate(x, size=finer.shape[-2:])
            return self.last(x)[:, 0]  # (P, h, w)

        return HeadOutput(masks, attention)


class DotProductMaskHead(MaskHead):
    """A mask is the product of a query's embedding with that of every pixel (sections 3.2 and 3.3 of 2206.02777).

    Pixels are embedded from the memory and, step by step, finer maps. What is learned tells an object
    from others in its box; outside of that the logits fall.
    """

    def __init__(self, dim: int, finer: Sequence[int]) -> None:
        """`finer` are the channels of the finer maps, the finest first. Each has half the width of the one before."""
        super().__init__()
        widths = [max(LEAST_WIDTH, dim >> i) for i in range(len(finer) + 1)]
        self.laterals = nn.ModuleList(
            nn.Conv2d(channels, width, 1) for channels, width in zip(reversed(finer), widths[1:], strict=True)
        )
        self.narrower = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(widths))
        self.steps = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(math.gcd(8, width), width), nn.ReLU())
            for width in widths[1:]
        )
        self.pixels = nn.Conv2d(widths[-1], widths[-1], 1)
        self.embedding = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, widths[-1])
        )

    def forward(self, seen: MaskHeadInputs) -> HeadOutput:
        x = seen.memory
        ways = zip(self.laterals, self.narrower, self.steps, reversed(seen.finer), strict=True)
        for lateral, narrower, step, map_ in ways:
            x = step(lateral(map_) + F.interpolate(narrower(x), size=map_.shape[-2:], mode="bilinear"))
        pixels = self.pixels(x)  # (B, C, h, w)
        embeddings = self.embedding(seen.hidden)  # (B, Q, C)
        boxes = seen.boxes.detach().float()  # masks shall not pull at them

        def masks(images: Tensor, queries: Tensor) -> Tensor:
            # Image by image: a copy of its pixels for each of its queries would be large.
            found = pixels.new_zeros(len(images), *pixels.shape[-2:])
            for image, own in enumerate(pixels):
                here = images == image
                asked = embeddings[image, queries[here]]  # (n, C)
                found = found.index_put((here,), torch.einsum("nc,chw->nhw", asked, own))
            return found - FALL * cells_outside(boxes[images, queries], *found.shape[-2:])  # (P, h, w)

        def attention(images: Tensor, queries: Tensor) -> Tensor:
            # A product is a cell's logit of belonging to the query, so its probability is what the mask goes by.
            shares = masks(images, queries).sigmoid()
            return (shares / shares.sum((1, 2), keepdim=True))[:, None]

        return HeadOutput(masks, attention)


def cells_outside(boxes: Tensor, height: int, width: int) -> Tensor:
    """How far each cell of a map lies outside of boxes (P, 4), in cells along both axes: (P, height, width)."""
    cx, cy, w, h = boxes[:, :, None].unbind(1)  # each (P, 1)
    x = (torch.arange(width, device=boxes.device) + 0.5) / width
    y = (torch.arange(height, device=boxes.device) + 0.5) / height
    across = ((x - cx).abs() - w / 2).clamp(min=0) * width  # (P, width)
    down = ((y - cy).abs() - h / 2).clamp(min=0) * height  # (P, height)
    return across[:, None] + down[:, :, None]
