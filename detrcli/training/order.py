"""The images of each step: a function of the seed and the step, so that resuming needs no saved position."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from detrcli.errors import UsageError
from detrcli.system.distributed import mix_seeds


@dataclass(frozen=True)
class Order:
    """The order of the images: each epoch is a permutation, cut into steps; an incomplete last step is dropped.

    The images of a step are divided among the processes, and in each process among its accumulated batches. However
    they are divided, a step has the same images.
    """

    images: int
    batch_size: int
    accumulate: int
    seed: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.images < self.world * self.accumulate:
            raise UsageError(
                f"{self.images} images are too few for {self.world} processes with {self.accumulate} batches each."
            )

    @property
    def step_size(self) -> int:  # images per step, in all processes
        return min(self.world * self.accumulate * self.batch_size, self.images)

    @property
    def steps(self) -> int:  # steps per epoch
        return self.images // self.step_size

    def batches(self, step: int) -> list[list[int]]:
        """Return the batches of this process in a step; steps are counted from 0 through all epochs."""
        epoch, index = self.place(step)
        order = _permutation(self.images, mix_seeds(self.seed, epoch))
        chosen = order[index * self.step_size : (index + 1) * self.step_size]
        parts = np.array_split(chosen, self.world * self.accumulate)
        return [part.tolist() for part in parts[self.rank * self.accumulate : (self.rank + 1) * self.accumulate]]

    def place(self, step: int) -> tuple[int, int]:
        """Return the epoch of a step, from 1, and its index in the epoch, from 0."""
        return step // self.steps + 1, step % self.steps

    def sampler(self, start: int, end: int) -> Iterator[list[tuple[int, int]]]:
        """Yield the batches of steps `start` to `end` (exclusive), each a list of pairs of epoch and image index."""
        for step in range(start, end):
            epoch, _ = self.place(step)
            for batch in self.batches(step):
                yield [(epoch, i) for i in batch]


def for_other_processes(batch_size: int, accumulate: int, before: int, now: int) -> tuple[int, int]:
    """Return the batch size and the accumulated batches for `now` processes that keep the number of images per step."""
    images = batch_size * accumulate * before
    if images % now:
        raise UsageError(
            f"This run was started by {before} processes with {images} images per step, which {now} processes cannot "
            "divide equally.\nStart another number of processes."
        )
    own = images // now
    batches = next(n for n in range(1, own + 1) if own % n == 0 and own // n <= batch_size)
    return own // batches, batches


@lru_cache(maxsize=2)
def _permutation(images: int, seed: int) -> np.ndarray:
    return torch.randperm(images, generator=torch.Generator().manual_seed(seed)).numpy()
