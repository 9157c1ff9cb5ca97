"""How this process was started: alone, by torchrun, or by Slurm's srun."""

import os
import re
from typing import NamedTuple


class Launch(NamedTuple):
    """The place of a process among those started together."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    address: str | None = None  # rendezvous; None where torchrun sets it in the environment


def launch() -> Launch:
    """Read the launch from the environment."""
    e = os.environ
    if "RANK" in e and "WORLD_SIZE" in e:
        return Launch(int(e["RANK"]), int(e["WORLD_SIZE"]), int(e.get("LOCAL_RANK", 0)))
    # Only srun sets the size of a step; a batch script or a shell inside a job is a single process.
    if int(e.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return Launch(
            rank=int(e["SLURM_PROCID"]),
            world_size=int(e["SLURM_STEP_NUM_TASKS"]),
            local_rank=int(e["SLURM_LOCALID"]),
            # A port that needs no privileges and that jobs on the same machine are unlikely to share.
            address=f"tcp://{first_node(e['SLURM_STEP_NODELIST'])}:{20_000 + int(e['SLURM_JOB_ID']) % 20_000}",
        )
    return Launch()


def first_node(nodes: str) -> str:
    """Return the first node of a Slurm node list such as `gpu[03-05,9],login`."""
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+))?", nodes)
    assert match is not None, nodes
    return match[1] + (match[2] or "")
