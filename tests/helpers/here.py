"""Calls of the command line: its output in this process, and Python in another."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from detrcli.reporter import Reporter

_RESTORE_SIGINT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@dataclass(frozen=True)
class Shown:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def ok(self) -> Self:
        assert self.code == 0, self.err
        return self

    def fails(self, code: int, *items: str) -> None:
        """The command printed nothing but an error, which names the items."""
        assert (self.code, self.out) == (code, ""), self.err
        assert all(item in self.err for item in items), self.err


class Notes(Reporter):
    """Collects the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def show(self, text: str) -> None:
        self.notes.append(text)


Detr = Callable[..., Shown]


def all_detections(detr: Detr, image: object, weights: object, *options: object) -> list[dict[str, Any]]:
    """The prediction of every query for an image, by `detr predict`."""
    call = ("predict", image, "--weights", weights, "--threshold", 0, "--no-images", "--json", *options)
    detections: list[dict[str, Any]] = detr(*call).json["images"][0]["detections"]
    return detections


def leaves(group: Any, prefix: str = "") -> list[str]:
    """The full names of the commands of an app and its groups."""
    names = []
    for name, command in group.commands.items():
        names += leaves(command, f"{prefix}{name} ") if hasattr(command, "commands") else [prefix + name]
    return names


def python(*args: object) -> list[str]:
    """The arguments of a Python process that receives SIGINT, which a process started by a shell with `&` ignores."""
    return [sys.executable, "-c", _RESTORE_SIGINT, *map(str, args)]


def torchrun(*args: object) -> "subprocess.CompletedProcess[str]":
    """Run a command in two processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "detrcli"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *launcher, *map(str, args)], capture_output=True, text=True, env=environment, check=False
    )
