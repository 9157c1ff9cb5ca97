"""Processes that work together: who am I, what do we have on average, what did each of us find."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
from torch import distributed

from detrcli.system.launch import launch

T = TypeVar("T")


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Work with the other processes that torchrun or srun started; alone where there are none."""
    here = launch()
    if here.world == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=here.address or "env://",
        rank=here.rank,
        world_size=here.world,
    )
    try:
        yield
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """Which of the processes this is; 0 outside a process group."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """How many processes work together; 1 outside a process group."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def mean(values: list[float]) -> list[float]:
    """The mean of each value over the processes. All must call it, with equally many values."""
    if world_size() == 1:
        return values
    total = torch.tensor(values, dtype=torch.float64, device=_meeting_place())
    distributed.all_reduce(total)
    means: list[float] = (total / world_size()).tolist()
    return means


def greatest(value: float) -> float:
    """The greatest of what the processes have. All must call it."""
    if world_size() == 1:
        return value
    most = torch.tensor(value, dtype=torch.float64, device=_meeting_place())
    distributed.all_reduce(most, distributed.ReduceOp.MAX)
    return float(most)


def broadcast_object(make: Callable[[], T]) -> T:
    """What the first process makes, for all. All must call it."""
    if world_size() == 1:
        return make()
    made: list[T | None] = [make() if rank() == 0 else None]
    distributed.broadcast_object_list(made)
    return cast("T", made[0])


def gather(mine: T) -> list[T]:
    """What each process has, in their order. All must call it."""
    if world_size() == 1:
        return [mine]
    everyone: list[T | None] = [None] * world_size()
    distributed.all_gather_object(everyone, mine)
    return [one for one in everyone if one is not None]


def broadcast(tensors: Iterable[torch.Tensor]) -> None:
    """Overwrite these with the first process' own. All must call it, with as many and as large."""
    if world_size() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, 0)


def _meeting_place() -> str:
    return "cuda" if distributed.get_backend() == "nccl" else "cpu"
