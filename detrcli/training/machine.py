"""What the machine gives, and how much of it is taken."""

import os
import statistics
import sys
import time
from pathlib import Path

import torch

from detrcli.system.launch import launch


def default_workers(device: torch.device) -> int:
    """Loader processes of this process: beside a GPU the cores are free for them, on a CPU the model wants them.

    With fewer than four cores there is none: on two, one took more from the model than it gave.
    """
    local = int(os.environ.get("LOCAL_WORLD_SIZE", launch().world_size))
    # A container or a scheduler may give us fewer cores than the machine has.
    ours = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    cores = ours // max(1, local)
    return min(8, max(1, cores - 1)) if device.type != "cpu" else min(2, cores // 4)


class Neighbours:
    """Looks, between the steps of a training on a CPU, at what else computes, and says once if that is too much."""

    def __init__(self, after: float = 10.0, looks: int = 7, pause: float = 1.0) -> None:
        self._next = time.monotonic() + after  # trainings that were started together prepare themselves until then
        self._left, self._pause = looks, pause
        self._seen: list[int] = []

    def after_step(self) -> str | None:
        """The sentence, after the last look; None otherwise."""
        if not self._left or time.monotonic() < self._next:
            return None
        others = running_elsewhere()
        if others is None:
            self._left = 0
            return None
        self._next = time.monotonic() + self._pause
        self._left -= 1
        self._seen.append(others)
        if self._left:
            return None
        passive = os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE"
        return too_many(statistics.mean(self._seen), os.cpu_count() or 1, passive=passive)


def too_many(others: float, cores: int, *, passive: bool) -> str | None:
    """What to tell where so many threads of other programs leave no core free; `passive` if ours do not spin."""
    if others < cores - 0.5:
        return None
    remedy = "give each fewer threads (OMP_NUM_THREADS=1), or let one wait for the other"
    if not passive:
        remedy = f"set OMP_WAIT_POLICY=PASSIVE for each (their threads wait by spinning), {remedy}"
    return (
        f"about {round(others)} threads of other programs compute on the {cores} cores here and slow this one down"
        f"{'' if passive else ' out of proportion'}: {remedy}"
    )


def running_elsewhere() -> int | None:
    """Threads of other processes that run or wait for a core at this moment; None where the system cannot tell."""
    # What Linux counts runs on any of its cores; whether on those that we are bound to, it does not say.
    if sys.platform != "linux" or len(os.sched_getaffinity(0)) != os.cpu_count():
        return None
    try:
        running = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
        ours = [path.read_text().rpartition(")")[2].split()[0] for path in Path("/proc/self/task").glob("*/stat")]
    except (OSError, ValueError, IndexError):  # another /proc, or a thread that has just ended
        return None
    return max(0, running - ours.count("R"))


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
