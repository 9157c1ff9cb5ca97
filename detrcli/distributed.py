"""Processes that work together: who am I, what do we have on average, what did each of us find."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import distributed

from detrcli.launch import launch

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
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    total = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    means: list[float] = (total / world_size()).tolist()
    return means


def gather(mine: T) -> list[T]:
    """What each process has, in their order. All must call it."""
    if world_size() == 1:
        return [mine]
    everyone: list[T | None] = [None] * world_size()
    distributed.all_gather_object(everyone, mine)
    return [one for one in everyone if one is not None]
