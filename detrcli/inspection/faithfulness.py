"""Which map can be believed: what becomes of a query's score as the cells that a map names go, or come."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.structures import Batch

# How much of the picture is gone, or has come, after each step. Small steps first: there maps differ.
SHARES = np.linspace(0, 1, 13) ** 2
TOGETHER = 8  # pictures in a batch
RANDOM = 3  # orders that stand for no map at all


@dataclass(frozen=True)
class Curves:
    """A query's score after each step, as SHARES has them: cells go, or come, those with most weight first."""

    deletion: np.ndarray  # falls fast where the map is right
    insertion: np.ndarray  # rises fast where the map is right

    @property
    def deletion_area(self) -> float:
        """Under the curve, over shares of the picture from 0 to 1; small is good."""
        return area(self.deletion)

    @property
    def insertion_area(self) -> float:
        """Likewise; large is good."""
        return area(self.insertion)


def area(scores: np.ndarray) -> float:
    """Under a curve over SHARES, so between 0 and 1."""
    return float(np.trapezoid(scores, SHARES))


@torch.inference_mode()
def curves(
    model: DetectionTransformer, pixels: Tensor, query: int, orders: Sequence[np.ndarray]
) -> list[Curves]:
    """For maps (h, w) of one query of a picture (3, H, W): the score of the class that it has in the whole picture.

    A cell that is gone is as grey as the mean of all pictures, which is what 0 means to the network.
    """
    prepared = [stages(torch.from_numpy(map_)) for map_ in orders]  # each (steps, h, w)
    gone = torch.cat([stage for stages_ in prepared for stage in (stages_, ~stages_)]).to(pixels.device)
    label = _scores(model, pixels[None])[0, query].argmax()
    parts = [gone[at : at + TOGETHER] for at in range(0, len(gone), TOGETHER)]
    scores = torch.cat([_scores(model, hidden(pixels, part))[:, query, label] for part in parts])
    by_map = scores.view(len(orders), 2, len(SHARES)).cpu().numpy()
    return [Curves(deletion, insertion) for deletion, insertion in by_map]


def stages(map_: Tensor) -> Tensor:
    """Which cells are gone after each step, (steps, h, w) bool: none at first, all in the end."""
    order = map_.flatten().argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))  # 0 is the cell with most weight
    going = torch.from_numpy(SHARES * len(order)).round()  # so many are gone
    return (rank < going[:, None]).view(len(SHARES), *map_.shape)


def hidden(pixels: Tensor, gone: Tensor) -> Tensor:
    """A picture (3, H, W) without some of its cells, (n, h, w), as (n, 3, H, W)."""
    kept = F.interpolate((~gone)[:, None].to(pixels.dtype), pixels.shape[-2:])  # (n, 1, H, W)
    return pixels * kept


def random_maps(cells: tuple[int, int], count: int, seed: int = 0) -> list[np.ndarray]:
    """Cells in no order at all, to compare with."""
    chance = np.random.default_rng(seed)
    return [chance.permutation(cells[0] * cells[1]).reshape(cells).astype(np.float32) for _ in range(count)]


def mean(many: Sequence[Curves]) -> Curves:
    """Their mean, step by step."""
    return Curves(
        np.mean([one.deletion for one in many], axis=0), np.mean([one.insertion for one in many], axis=0)
    )


def _scores(model: DetectionTransformer, images: Tensor) -> Tensor:
    """Class probabilities (B, Q, K) of whole pictures (B, 3, H, W)."""
    padding = torch.zeros(len(images), *images.shape[-2:], dtype=torch.bool, device=images.device)
    return model(Batch(images, padding)).last.logits.float().softmax(-1)[..., :-1]
