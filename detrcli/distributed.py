"""Processes that train together: how many are we, what do we have on average."""

import torch
from torch import distributed


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
