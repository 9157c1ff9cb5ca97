"""Which pictures make which step: a function of the seed and the step's number, so nothing need be remembered."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from detrcli.errors import UsageError
from detrcli.system.distributed import mix_seeds


@dataclass(frozen=True)
class Order:
    """An epoch is a permutation of all pictures, cut into steps; what is left over waits for another epoch.

    A step's pictures are shared out over the processes, and in each over its accumulated batches, so that the
    step is the same however it is shared out.
    """

    pictures: int
    batch_size: int
    accumulate: int
    seed: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.pictures < self.world * self.accumulate:
            raise UsageError(
                f"{self.pictures} pictures cannot be shared out over {self.world} processes with "
                f"{self.accumulate} batches each."
            )

    @property
    def step_size(self) -> int:
        """Pictures of a step, those of all processes together."""
        return min(self.world * self.accumulate * self.batch_size, self.pictures)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self.pictures // self.step_size

    def batches(self, step: int) -> list[list[int]]:
        """The batches of this process in a step, which are counted from 0 through all epochs."""
        epoch, place = self.place(step)
        order = _permutation(self.pictures, mix_seeds(self.seed, epoch))
        chosen = order[place * self.step_size : (place + 1) * self.step_size]
        parts = np.array_split(chosen, self.world * self.accumulate)
        return [part.tolist() for part in parts[self.rank * self.accumulate : (self.rank + 1) * self.accumulate]]

    def place(self, step: int) -> tuple[int, int]:
        """The epoch of a step, from 1, and its place in it, from 0."""
        return step // self.steps + 1, step % self.steps


def for_other_processes(batch_size: int, accumulate: int, before: int, now: int) -> tuple[int, int]:
    """Batch size and accumulated batches with which `now` processes make the steps that `before` have made."""
    pictures = batch_size * accumulate * before
    if pictures % now:
        raise UsageError(
            f"This run was made by {before} processes, {pictures} pictures a step, which {now} cannot share out "
            "equally. Start another number of them."
        )
    own = pictures // now
    parts = next(parts for parts in range(1, own + 1) if own % parts == 0 and own // parts <= batch_size)
    return own // parts, parts


@dataclass(frozen=True)
class Batches:
    """All batches of some steps as (epoch, picture), one after the other, for a loader."""

    order: Order
    start: int
    end: int

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start, self.end):
            epoch, _ = self.order.place(step)
            for batch in self.order.batches(step):
                yield [(epoch, i) for i in batch]


@lru_cache(maxsize=2)
def _permutation(pictures: int, seed: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    order: np.ndarray = torch.randperm(pictures, generator=generator).numpy()
    return order
