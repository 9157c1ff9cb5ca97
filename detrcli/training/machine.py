"""What the machine gives, and how much of it is taken."""

import os
import sys

import torch

from detrcli.system.launch import launch


def default_workers(device: torch.device) -> int:
    """Loader processes of this process: beside a GPU the cores are free for them, on a CPU the model wants them."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", launch().world))
    # A container or a scheduler may give us fewer cores than the machine has.
    ours = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    cores = ours // max(1, local)
    return min(8, max(1, cores - 1)) if device.type != "cpu" else min(2, max(1, cores // 4))


def memory_mb(device: torch.device) -> float | None:
    """The most memory that was taken at a time, the GPU's where there is one; None where the system cannot tell."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6)
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / 1e6 if sys.platform == "darwin" else most / 1e3)
