"""Resources of the machine: loader processes, memory, and other programs that compete for the CPU."""

import math
import os
import statistics
import sys
import time
from pathlib import Path

import torch

from detrcli.system.launch import launch


def default_workers(device: torch.device) -> int:
    """Return the number of loader processes of this process.

    With a GPU, the CPU cores are free for them. On a CPU, the model uses the cores: with fewer than four, a loader
    process slows it down more than it helps.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", launch().world_size))
    # A container or a scheduler may allow fewer cores than the machine has.
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    cores = allowed // max(1, processes)
    return min(8, max(1, cores - 1)) if device.type != "cpu" else min(2, cores // 4)


class CpuContention:
    """Samples between steps how many threads of other programs run, and warns once if no core is free.

    The first of the `samples` is taken `after` seconds from the start, the others at least `pause` seconds apart.
    """

    def __init__(self, after: float = 10.0, samples: int = 7, pause: float = 1.0) -> None:
        self._next = time.monotonic() + after  # trainings that start together are still preparing until then
        self._max_samples, self._pause = samples, pause
        self._samples: list[int] = []

    def after_step(self) -> str | None:  # a warning
        if len(self._samples) == self._max_samples or time.monotonic() < self._next:
            return None
        others = running_elsewhere()
        if others is None:
            self._next = math.inf
            return None
        self._next = time.monotonic() + self._pause
        self._samples.append(others)
        if len(self._samples) < self._max_samples:
            return None
        mean, cores = statistics.mean(self._samples), os.cpu_count() or 1
        if mean < cores - 0.5:  # a core is free
            return None
        passive = os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE"  # otherwise waiting threads spin
        policy = "" if passive else "set OMP_WAIT_POLICY=PASSIVE for each (waiting threads spin otherwise), "
        return (
            f"about {round(mean)} threads of other programs run on the {cores} cores and slow down this training"
            f"{'' if passive else ' out of proportion'}: {policy}give each program fewer threads (OMP_NUM_THREADS=1), "
            "or run one after the other"
        )


def running_elsewhere() -> int | None:
    """Return the number of threads of other processes that run or wait for a core; None if it is unknown."""
    # Linux counts the threads on all cores, so the number means nothing if this process may use only some of them.
    if sys.platform != "linux" or len(os.sched_getaffinity(0)) != os.cpu_count():
        return None
    try:
        running = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
        own_states = [path.read_text().rpartition(")")[2].split()[0] for path in Path("/proc/self/task").glob("*/stat")]
    except (OSError, ValueError, IndexError):  # another kind of /proc, or a thread that has just ended
        return None
    return max(0, running - own_states.count("R"))


def memory_mb(device: torch.device) -> float | None:
    """Return the peak memory of this process in MB, on the GPU if it is the device; None if it is unknown."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6)
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 1e6 if sys.platform == "darwin" else peak / 1e3)
