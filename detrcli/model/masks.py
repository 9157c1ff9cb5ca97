"""Mask heads on a detector (section 4 of arXiv 2005.12872, section 3 of arXiv 2206.02777).

P requested queries; h and w are the cells of the map on which masks are predicted.
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

MIN_WIDTH = 16  # channels of a pixel embedding
OUTSIDE_PENALTY = 4.0  # subtracted from a mask logit per cell of distance to the query's box


@dataclass(frozen=True)
class MaskHeadInputs:
    """The inputs of a mask head."""

    hidden: Tensor  # (B, Q, C), of the last decoder layer
    boxes: Tensor  # (B, Q, 4), cxcywh in [0, 1], predicted from it
    features: Tensor  # (B, C, h, w), the encoder's input, on its finest map
    memory: Tensor  # (B, C, h, w), the encoder's output
    padding: Tensor | None  # (B, h, w)
    finer: Sequence[Tensor]  # finer maps, the finest first: the backbone's, and optionally the image itself


# From the images (P,) and indices (P,) of the requested queries.
OfQueries = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class QueryMasks:
    """The masks of a batch, computed on request, in the precision of the forward pass."""

    input_size: tuple[int, int]
    logits: OfQueries  # (P, h, w)
    weights: OfQueries | None = None  # of the cells in a mask, (P, heads, h, w), summing to 1 over heads and cells
    by_corner: bool = False
    heads: int = 1
    precision: Callable[[], AbstractContextManager[object]] = nullcontext

    def __call__(self, images: Tensor, queries: Tensor) -> Tensor:
        with self.precision():
            return self.logits(images, queries).float()

    def attention(self, images: Tensor, queries: Tensor) -> Tensor:
        assert self.weights is not None
        with self.precision():
            return self.weights(images, queries).float()


class MaskHead(nn.Module, ABC):
    """A mask head, which computes once per image what all queries share, and then a mask per requested query."""

    by_corner = False  # see `structures.Masks`
    heads = 1  # of its attention

    @abstractmethod
    def forward(self, inputs: MaskHeadInputs) -> tuple[OfQueries, OfQueries]:
        """Return functions for mask logits (P, h, w) and for the weights of the cells (P, heads, h, w)."""


class Segmenter(DetectionTransformer):
    """A detector with a mask head."""

    has_masks = True

    def __init__(
        self, detector: DetectionTransformer, mask_head: MaskHead, *, encoder_map: int = -1, with_image: bool = False
    ) -> None:
        super().__init__()
        self.detector = detector
        self.mask_head = mask_head
        self.encoder_map = encoder_map  # index of the finest backbone map that the encoder uses
        self.with_image = with_image  # whether the image is the finest map of the head
        self.masks_by_corner = mask_head.by_corner
        self._frozen = False
        self.find_unused_parameters = detector.find_unused_parameters
        self.casts_by_layer = detector.casts_by_layer

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self._frozen:
            self.detector.eval()  # or batch norm would update its statistics
        return self

    @property
    def backbone(self) -> Backbone:  # type: ignore[override]  # the detector's
        return self.detector.backbone

    def unused_parameters(self) -> Sequence[nn.Parameter]:
        return self.detector.unused_parameters()

    def freeze(self, part: Frozen) -> None:
        """With "detector" train only the mask head: the second step of the paper's training."""
        self._frozen = part == "detector"
        self.detector.requires_grad_(not self._frozen)
        if part != "detector":
            self.detector.freeze(part)
        self.train(self.training)

    def forward(self, batch: Batch, targets: Sequence[Target] | None = None) -> Output:
        output: Output = self.detector(batch, targets)
        assert output.decoder.hidden is not None
        rows, columns = output.maps[self.encoder_map].shape[-2:]
        memory = output.named["memory"][:, : rows * columns].mT  # (B, C, h * w)
        memory = memory.reshape(*memory.shape[:2], rows, columns)
        head = self.mask_head
        logits, weights = head(
            MaskHeadInputs(
                hidden=output.decoder.hidden[-1],
                boxes=output.decoder.boxes[-1],
                features=output.named.get("features", memory),
                memory=memory,
                padding=downsample_padding(batch.padding, memory),
                finer=[*([batch.images] if self.with_image else []), *output.maps[: self.encoder_map]],
            )
        )
        # Masks are computed after the end of an autocast block, in its precision.
        precision: Callable[[], AbstractContextManager[object]] = nullcontext
        device = memory.device.type
        if is_autocast_available(device) and not torch.compiler.is_exporting():
            enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
            precision = partial(torch.autocast, device, dtype, enabled)
        height, width = batch.images.shape[-2:]
        return output.with_masks(QueryMasks((height, width), logits, weights, head.by_corner, head.heads, precision))


class AttentionMaps(nn.Module):
    """Attention weights of queries over the memory, with a softmax over all heads and cells, as published."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        for linear in (self.query, self.key):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def keys(self, memory: Tensor) -> Tensor:
        """Return the keys (B, heads, C / heads, h, w) of a memory (B, C, h, w)."""
        keys: Tensor = self.key(memory.movedim(1, -1)).movedim(-1, 1)  # (B, C, h, w)
        return keys.reshape(len(keys), self.heads, -1, *keys.shape[2:])

    def forward(self, hidden: Tensor, keys: Tensor, padding: Tensor | None) -> Tensor:
        """Return the weights (P, heads, h, w) for queries (P, C), with keys and padding (P, h, w) of their images."""
        queries = self.query(hidden).view(len(hidden), self.heads, keys.shape[2])  # (P, heads, C / heads)
        weights = torch.einsum("phc,phcyx->phyx", queries * queries.shape[-1] ** -0.5, keys)
        if padding is not None:
            weights = weights.masked_fill(padding[:, None], -torch.inf)
        return weights.flatten(1).softmax(1).view(weights.shape)


class ConvolutionalMaskHead(MaskHead):
    """DETR's mask head: attention maps and features, refined by convolutions over ever finer maps."""

    by_corner = True  # half a pixel off, as the published numbers were measured

    def __init__(self, dim: int, heads: int, finer: Sequence[int]) -> None:
        """`finer` is the number of channels of each finer map, the finest first."""
        super().__init__()
        self.heads = heads
        self.attention = AttentionMaps(dim, heads)
        widths = [dim + heads, dim + heads, *(dim // 2**i for i in range(1, len(finer) + 2))]
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

    def forward(self, inputs: MaskHeadInputs) -> tuple[OfQueries, OfQueries]:
        keys = self.attention.keys(inputs.memory)
        # Each (B, width, h, w), the coarsest first.
        laterals = [conv(map_) for conv, map_ in zip(self.laterals, reversed(inputs.finer), strict=True)]

        def attention(images: Tensor, queries: Tensor) -> Tensor:
            padding = None if inputs.padding is None else inputs.padding[images]
            maps: Tensor = self.attention(inputs.hidden[images, queries], keys[images], padding)
            return maps  # (P, heads, h, w)

        def masks(images: Tensor, queries: Tensor) -> Tensor:
            x = torch.cat([inputs.features[images], attention(images, queries)], 1)
            for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
                x = norm(conv(x)).relu()
                if 1 <= i <= len(laterals):
                    finer = laterals[i - 1][images]
                    x = finer + F.interpolate(x, size=finer.shape[-2:])
            return self.last(x)[:, 0]  # (P, h, w)

        return masks, attention


class DotProductMaskHead(MaskHead):
    """Mask DINO's mask head: dot products of query embeddings and pixel embeddings.

    Pixel embeddings are computed from the memory and, step by step, finer maps. Logits fall with the distance to the
    query's box, so that the embeddings only have to distinguish objects inside it.
    """

    def __init__(self, dim: int, finer: Sequence[int]) -> None:
        """`finer` is the number of channels of each finer map, the finest first. Every step halves the width."""
        super().__init__()
        widths = [max(MIN_WIDTH, dim >> i) for i in range(len(finer) + 1)]
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

    def forward(self, inputs: MaskHeadInputs) -> tuple[OfQueries, OfQueries]:
        x = inputs.memory
        layers = zip(self.laterals, self.narrower, self.steps, reversed(inputs.finer), strict=True)
        for lateral, narrower, step, map_ in layers:
            x = step(lateral(map_) + F.interpolate(narrower(x), size=map_.shape[-2:], mode="bilinear"))
        pixels = self.pixels(x)  # (B, C, h, w)
        embeddings = self.embedding(inputs.hidden)  # (B, Q, C)
        boxes = inputs.boxes.detach().float()  # the mask loss does not train the boxes

        def masks(images: Tensor, queries: Tensor) -> Tensor:
            # Image by image: copying the pixels of an image for each of its queries would take much memory.
            logits = pixels.new_zeros(len(images), *pixels.shape[-2:])
            if torch.compiler.is_exporting():  # all queries of all images, in a graph for any number of images
                products = torch.einsum("bqc,bchw->bqhw", embeddings, pixels).flatten(0, 1)
                return products - OUTSIDE_PENALTY * cells_outside(boxes.flatten(0, 1), *logits.shape[-2:])
            for image, image_pixels in enumerate(pixels):
                here = images == image  # (P,)
                products = torch.einsum("nc,chw->nhw", embeddings[image, queries[here]], image_pixels)
                logits = logits.index_put((here,), products)
            return logits - OUTSIDE_PENALTY * cells_outside(boxes[images, queries], *logits.shape[-2:])  # (P, h, w)

        return masks, lambda images, queries: probability_shares(masks(images, queries))


def probability_shares(logits: Tensor) -> Tensor:
    """Return the share of each cell in the probability of a mask, (P, 1, h, w), for logits (P, h, w)."""
    probabilities = logits.sigmoid()
    return (probabilities / probabilities.sum((1, 2), keepdim=True))[:, None]


def cells_outside(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return the L1 distance in cells from each cell of a map to boxes (P, 4), cxcywh: (P, height, width)."""
    cx, cy, w, h = boxes[:, :, None].unbind(1)  # each (P, 1)
    x = (torch.arange(width, device=boxes.device) + 0.5) / width
    y = (torch.arange(height, device=boxes.device) + 0.5) / height
    across = ((x - cx).abs() - w / 2).clamp(min=0) * width  # (P, width)
    down = ((y - cy).abs() - h / 2).clamp(min=0) * height  # (P, height)
    return across[:, None] + down[:, :, None]
