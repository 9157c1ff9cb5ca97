"""Denoising queries (arXiv 2203.01305, 2203.03605): objects with noise on label and box, to be told as they were.

Nothing has to be matched there: each query knows its object. They see the matching queries and not the other way
round, and no group sees another.
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
    """What is drawn for K denoising queries."""

    chance: Tensor  # (K,), in [0, 1): the label is another one where it is small
    labels: Tensor  # (K,), which then
    sign: Tensor  # (K, 4), -1 or 1: where each number of the corners moves
    part: Tensor  # (K, 4), in [0, 1): how far


@dataclass(frozen=True)
class DenoisingQueries:
    """D queries of each picture, of which some are there only to make all rows as long."""

    contents: Tensor  # (B, D, C)
    references: Tensor  # (B, D, 4), before the sigmoid
    hidden: Tensor  # (D + Q, D + Q), True where the row's query does not see the column's
    images: Tensor  # (P,), ascending: of the pairs of query and object
    queries: Tensor  # (P,)
    objects: Tensor  # (P,), counted through the batch
    counts: Callable[[Sequence[int]], ObjectCounts]  # of any batch: pairs of its images, and queries

    def match(self, layers: int) -> Match:
        """The pairs, the same in all layers."""
        each = torch.arange(layers, device=self.images.device).repeat_interleave(len(self.images))
        return Match(each, self.images.repeat(layers), self.queries.repeat(layers), self.objects.repeat(layers))


class Denoising(nn.Module):
    """Makes denoising queries of the objects of a batch.

    A group has every object once with little noise and, if it is contrastive, once with more, which is to be told as
    no object. There are as many groups as make some `number` of queries for the picture of most objects.
    """

    def __init__(
        self, dim: int, classes: int, *, number: int, label_noise: float, box_noise: float, contrastive: bool
    ) -> None:
        super().__init__()
        self.classes, self.number = classes, number
        self.label_noise, self.box_noise = label_noise, box_noise
        self.halves = 2 if contrastive else 1
        self.label_contents = nn.Embedding(classes + 1, dim)  # the last one is unused, as published

    def groups(self, most: int) -> int:
        """How many groups a batch has whose picture of most objects has so many."""
        return max(1, self.number // most) if most else 1

    def counts(self, objects: Sequence[int]) -> ObjectCounts:
        """How many pairs the images of a batch have, and how many queries."""
        most = max(objects, default=0)
        groups = self.groups(most)
        return [groups * n for n in objects], self.halves * groups * max(1, most)

    def draw(self, rows: int, device: torch.device) -> Noise:
        """New noise, from torch's random state."""
        return Noise(
            torch.rand(rows, device=device),
            torch.randint(self.classes, (rows,), device=device),
            2 * torch.randint(2, (rows, 4), device=device) - 1,
            torch.rand(rows, 4, device=device),
        )

    def forward(self, targets: Sequence[Target], queries: int) -> DenoisingQueries:
        """Those of a batch, beside so many matching queries."""
        device = self.label_contents.weight.device
        objects = [len(target) for target in targets]
        most, total = max(1, *objects), sum(objects)
        halves = self.halves * self.groups(max(objects))  # half-groups: little noise, much noise, little ...
        per_image = torch.tensor(objects, device=device)
        of_image = torch.arange(len(targets), device=device).repeat_interleave(per_image)  # (T,)
        place = torch.arange(total, device=device) - (per_image.cumsum(0) - per_image)[of_image]  # (T,)

        # Every object in every half-group: row g * T + j is object j in half-group g; K rows.
        half = torch.arange(halves, device=device).repeat_interleave(total)  # (K,)
        images, queries_at = of_image.repeat(halves), place.repeat(halves) + half * most
        negative = (half % self.halves == 1)[:, None]
        noise = self.draw(len(half), device)
        labels = torch.cat([target.labels for target in targets]).repeat(halves)
        labels = torch.where(noise.chance < 0.5 * self.label_noise, noise.labels, labels)
        boxes = torch.cat([target.boxes for target in targets]).float().repeat(halves, 1)  # (K, 4)
        reach = boxes[:, [2, 3, 2, 3]] / 2 * self.box_noise
        x0, y0, x1, y1 = (cxcywh_to_xyxy(boxes) + noise.sign * (noise.part + negative) * reach).clamp(0, 1).unbind(1)
        noisy = torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], 1)

        D = halves * most
        where = images, queries_at
        embedded = self.label_contents(labels)  # (K, C)
        contents = embedded.new_zeros(len(targets), D, embedded.shape[-1]).index_put(where, embedded)
        references = noisy.new_zeros(len(targets), D, 4).index_put(where, inverse_sigmoid(noisy, 1e-3))
        positive = torch.nonzero(~negative[:, 0])[:, 0]
        positive = positive[torch.argsort(images[positive], stable=True)]
        return DenoisingQueries(
            contents,
            references,
            self._hidden(D, self.halves * most, queries, device),
            images[positive],
            queries_at[positive],
            torch.arange(total, device=device).repeat(halves)[positive],
            self.counts,
        )

    @staticmethod
    def _hidden(denoising: int, of_group: int, queries: int, device: torch.device) -> Tensor:
        group = torch.arange(denoising + queries, device=device) // of_group
        matching = torch.arange(denoising + queries, device=device) >= denoising
        seen = matching[None] | ((group[:, None] == group[None]) & ~matching[:, None])
        return ~seen
