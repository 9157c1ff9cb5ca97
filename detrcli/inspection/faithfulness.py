"""Which map can be believed: what becomes of a query's score as the cells that a map names go, or come."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from detrcli.config import Preprocessing
from detrcli.inference.detector import Detector
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
def curves(detector: Detector, pixels: Tensor, query: int, orders: Sequence[np.ndarray]) -> list[Curves]:
    """For maps (h, w) of one query of a picture (3, H, W): the score of the class that it has in the whole picture.

    A cell that is gone is as grey as the mean of all pictures.
    """

    def scores(images: Tensor) -> Tensor:
        """Class probabilities (B, K) of the query in whole pictures (B, 3, H, W)."""
        return detector.scoring.probabilities(detector.model(Batch(images, None)).last.logits[:, query])

    prepared = [stages(torch.from_numpy(map_)) for map_ in orders]  # each (steps, h, w)
    gone = torch.cat([stage for stages_ in prepared for stage in (stages_, ~stages_)]).to(pixels.device)
    label, grey = scores(pixels[None])[0].argmax(), mean_colour(detector.preprocessing).to(pixels)
    parts = [gone[at : at + TOGETHER] for at in range(0, len(gone), TOGETHER)]
    found = torch.cat([scores(hidden(pixels, part, grey))[:, label] for part in parts])
    by_map = found.view(len(orders), 2, len(SHARES)).cpu().numpy()
    return [Curves(deletion, insertion) for deletion, insertion in by_map]


def mean_colour(preprocessing: Preprocessing) -> Tensor:
    """The mean colour of all pictures as the network sees it, (3,): 0 where inputs are normalised by it."""
    of_pictures = torch.tensor(Preprocessing().mean)
    return (of_pictures - torch.tensor(preprocessing.mean)) / torch.tensor(preprocessing.std)


def stages(map_: Tensor) -> Tensor:
    """Which cells are gone after each step, (steps, h, w) bool: none at first, all in the end."""
    order = map_.flatten().argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))  # 0 is the cell with most weight
    going = torch.from_numpy(SHARES * len(order)).round()  # so many are gone
    return (rank < going[:, None]).view(len(SHARES), *map_.shape)


def hidden(pixels: Tensor, gone: Tensor, grey: Tensor) -> Tensor:
    """A picture (3, H, W) without some of its cells, (n, h, w), which become grey (3,), as (n, 3, H, W)."""
    away = F.interpolate(gone[:, None].to(pixels.dtype), pixels.shape[-2:]).bool()  # (n, 1, H, W)
    return torch.where(away, grey[:, None, None], pixels)


def random_maps(cells: tuple[int, int], count: int, seed: int = 0) -> list[np.ndarray]:
    """Cells in no order at all, to compare with."""
    chance = np.random.default_rng(seed)
    return [chance.permutation(cells[0] * cells[1]).reshape(cells).astype(np.float32) for _ in range(count)]


def mean(many: Sequence[Curves]) -> Curves:
    """Their mean, step by step."""
    return Curves(np.mean([one.deletion for one in many], axis=0), np.mean([one.insertion for one in many], axis=0))
