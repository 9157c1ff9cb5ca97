"""Process groups: joining them, collective operations, and seeds that agree in all processes."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar, cast

import torch
from torch import distributed

from detrcli.system.launch import launch

T = TypeVar("T")


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Join the process group that torchrun or srun started; do nothing in a single process."""
    process = launch()
    if process.world_size == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=process.address or "env://",
        rank=process.rank,
        world_size=process.world_size,
    )
    try:
        yield
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


# The functions from here to `broadcast` are collective: all processes of the group must call them.


def mean(values: list[float]) -> list[float]:
    """Return the mean of each value over the processes, which must pass the same number of values."""
    return [total / world_size() for total in _reduce(values, "SUM")]


def maximum(value: float) -> float:
    """Return the maximum over the processes."""
    return _reduce([value], "MAX")[0]


def _reduce(values: list[float], operation: Literal["SUM", "MAX"]) -> list[float]:
    if world_size() == 1:
        return values
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    result = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(result, getattr(distributed.ReduceOp, operation))
    return result.tolist()


def broadcast_object(make: Callable[[], T]) -> T:
    """Call `make` in the first process and return its result in all."""
    if world_size() == 1:
        return make()
    objects: list[T | None] = [make() if rank() == 0 else None]
    distributed.broadcast_object_list(objects)
    return cast("T", objects[0])


def gather(value: T) -> list[T]:
    """Return the values of all processes, by rank."""
    if world_size() == 1:
        return [value]
    values: list[T | None] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return [value for value in values if value is not None]


def broadcast(tensors: Iterable[torch.Tensor]) -> None:
    """Overwrite tensors with those of the first process, in place."""
    if world_size() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, 0)


def mix_seeds(*numbers: int) -> int:
    """Return a seed derived from several numbers, the same in every process and on every machine."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:7])  # 56 bits: a positive int64
