"""Denoising queries (arXiv 2203.01305, 2203.03605): noisy labels and boxes of objects, to be reconstructed.

They need no matching: the object of each query is known. They attend to the matching queries, which do not attend to
them, and denoising groups do not attend to each other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detrcli.boxes import cxcywh_to_xyxy
from detrcli.model.deformable_transformer import inverse_sigmoid
from detrcli.structures import Match, ObjectCounts, Target


@dataclass(frozen=True)
class Noise:
    """The random numbers for K denoising queries."""

    chance: Tensor  # (K,), in [0, 1): the label is replaced where this is small
    labels: Tensor  # (K,), the replacements
    sign: Tensor  # (K, 4), -1 or 1: the direction in which each coordinate moves
    part: Tensor  # (K, 4), in [0, 1): the distance


@dataclass(frozen=True)
class DenoisingQueries:
    """D denoising queries per image, some of them padding for images with fewer objects."""

    contents: Tensor  # (B, D, C)
    references: Tensor  # (B, D, 4), before the sigmoid
    attn_mask: Tensor  # (D + Q, D + Q), True where the row's query must not attend to the column's
    pairs: Tensor  # (3, P): images in ascending order, queries, objects counted over the batch
    counts: Callable[[Sequence[int]], ObjectCounts]  # see `QueryGroup.counts`

    def match(self, layers: int) -> Match:
        """Return the pairs, the same in all layers."""
        each = torch.arange(layers, device=self.pairs.device).repeat_interleave(self.pairs.shape[1])
        return Match(each, *self.pairs.repeat(1, layers))


class Denoising(nn.Module):
    """Creates denoising queries from the objects of a batch.

    A group contains every object once with little noise (positive) and, if contrastive, once with more noise
    (negative), to be predicted as no object. The image with the most objects has about `number` positive queries.
    """

    def __init__(
        self, dim: int, classes: int, *, number: int, label_noise: float, box_noise: float, contrastive: bool
    ) -> None:
        super().__init__()
        self.classes, self.number = classes, number
        self.label_noise, self.box_noise = label_noise, box_noise
        self.halves = 2 if contrastive else 1
        self.label_contents = nn.Embedding(classes + 1, dim)  # the last row is unused, as published

    def groups(self, most: int) -> int:
        """Return the number of groups for a batch with at most this many objects in an image."""
        return max(1, self.number // most) if most else 1

    def counts(self, objects: Sequence[int]) -> ObjectCounts:
        """Return the number of pairs of each image of a batch, and the number of queries."""
        most = max(objects, default=0)
        groups = self.groups(most)
        return [groups * n for n in objects], self.halves * groups * max(1, most)

    def draw(self, number: int, device: torch.device) -> Noise:
        """Draw noise from torch's global generator."""
        return Noise(
            torch.rand(number, device=device),
            torch.randint(self.classes, (number,), device=device),
            2 * torch.randint(2, (number, 4), device=device) - 1,
            torch.rand(number, 4, device=device),
        )

    def forward(self, targets: Sequence[Target], queries: int) -> DenoisingQueries:
        """Return the denoising queries of a batch, to be used with this many matching queries."""
        device = self.label_contents.weight.device
        objects = [len(target) for target in targets]
        most, total = max(1, *objects), sum(objects)
        half_groups = self.halves * self.groups(max(objects))  # positive, negative, positive ...
        per_image = torch.tensor(objects, device=device)
        image_of = torch.arange(len(targets), device=device).repeat_interleave(per_image)  # (T,)
        index_in_image = torch.arange(total, device=device) - (per_image.cumsum(0) - per_image)[image_of]  # (T,)

        # Every object in every half-group, K queries: query g * T + j is object j in half-group g.
        half = torch.arange(half_groups, device=device).repeat_interleave(total)  # (K,)
        images, denoising_queries = image_of.repeat(half_groups), index_in_image.repeat(half_groups) + half * most
        negative = (half % self.halves == 1)[:, None]
        noise = self.draw(len(half), device)
        labels = torch.cat([target.labels for target in targets]).repeat(half_groups)
        labels = torch.where(noise.chance < 0.5 * self.label_noise, noise.labels, labels)
        boxes = torch.cat([target.boxes for target in targets]).float().repeat(half_groups, 1)  # (K, 4)
        reach = boxes[:, [2, 3, 2, 3]] / 2 * self.box_noise
        x0, y0, x1, y1 = (cxcywh_to_xyxy(boxes) + noise.sign * (noise.part + negative) * reach).clamp(0, 1).unbind(1)
        noisy = torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], 1)

        D = half_groups * most
        places = images, denoising_queries  # each (K,)
        embedded = self.label_contents(labels)  # (K, C)
        contents = embedded.new_zeros(len(targets), D, embedded.shape[-1]).index_put(places, embedded)
        references = noisy.new_zeros(len(targets), D, 4).index_put(places, inverse_sigmoid(noisy, 1e-3))
        pairs = torch.stack([*places, torch.arange(total, device=device).repeat(half_groups)])[:, ~negative[:, 0]]
        pairs = pairs[:, torch.argsort(pairs[0], stable=True)]

        index = torch.arange(D + queries, device=device)
        group, matching = index // (self.halves * most), index >= D
        allowed = matching[None] | ((group[:, None] == group[None]) & ~matching[:, None])  # (D + Q, D + Q)
        return DenoisingQueries(contents, references, ~allowed, pairs, self.counts)
