"""Rank, world size and rendezvous of a single process, under torchrun and under srun."""

import pytest

from detrcli.system.launch import Launch, first_node, launch

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
BATCH = {"SLURM_JOB_ID": "1234567", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
SRUN = {
    "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_PROCID": "2", "SLURM_LOCALID": "0",
}  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Launch()),
        (TORCHRUN, Launch(3, 8, 1)),
        (BATCH, Launch()),
        ({**BATCH, "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NODELIST": "gpu07"}, Launch()),
        ({**BATCH, **SRUN}, Launch(2, 4, 0, "tcp://gpu07:34567")),
        ({**BATCH, **SRUN, "SLURM_JOB_ID": "1239999"}, Launch(2, 4, 0, "tcp://gpu07:39999")),
        ({**BATCH, **SRUN, "SLURM_JOB_ID": "1240000"}, Launch(2, 4, 0, "tcp://gpu07:20000")),
        ({**BATCH, **SRUN, **TORCHRUN}, Launch(3, 8, 1)),
    ],
    ids=["alone", "torchrun", "batch script", "srun of one", "srun", "high port", "low port", "torchrun below srun"],
)
def test_environment(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: Launch) -> None:
    for name in (*TORCHRUN, *BATCH, *SRUN):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launch() == expected


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("login", "login"),
        ("node-1,node-2", "node-1"),
        ("gpu[03-05,9],login", "gpu03"),
        ("gpu[9,11-12]", "gpu9"),
        ("rack1-gpu[007]", "rack1-gpu007"),
        ("a.site.org,b[1-2]", "a.site.org"),
    ],
)
def test_first_node(nodes: str, first: str) -> None:
    assert first_node(nodes) == first
