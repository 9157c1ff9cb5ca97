"""How this process was started: alone, by torchrun, or by Slurm's srun."""

import os
import re
from typing import NamedTuple


class Launch(NamedTuple):
    """One process among those that were started together."""

    rank: int = 0
    world: int = 1
    local: int = 0  # among those on this machine
    address: str | None = None  # where they meet; None where the environment says so itself (torchrun)


def launch() -> Launch:
    """Read off the environment."""
    e = os.environ
    if "RANK" in e and "WORLD_SIZE" in e:
        return Launch(int(e["RANK"]), int(e["WORLD_SIZE"]), int(e.get("LOCAL_RANK", 0)))
    # Only srun sets the size of a step; a batch script or a shell inside a job is one process.
    if int(e.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return Launch(
            rank=int(e["SLURM_PROCID"]),
            world=int(e["SLURM_STEP_NUM_TASKS"]),
            local=int(e["SLURM_LOCALID"]),
            address=f"tcp://{first_node(e['SLURM_STEP_NODELIST'])}:{slurm_port(e['SLURM_JOB_ID'])}",
        )
    return Launch()


def first_node(nodes: str) -> str:
    """The first of Slurm's list of nodes, as in `gpu[03-05,9],login`."""
    listed = re.match(r"([^\[,]+)(?:\[([^\],-]+))?", nodes)
    if listed is None:
        raise ValueError(f"SLURM_STEP_NODELIST={nodes}: no node is named in it")
    return listed[1] + (listed[2] or "")


def slurm_port(job: str) -> int:
    """A port that jobs on the same machine do not share by chance."""
    return 20_000 + int(job) % 20_000
