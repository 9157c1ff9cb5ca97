"""Kills trainings at random moments and amid their saves, goes on with them, and looks at what was lost.

    python examples/kills.py [--kills 200] [--signals 20] [--seed 0]

Small trainings that save several times a second are stopped: by SIGKILL at random moments, a quarter of them while a
file is being written, and by SIGTERM, SIGINT and SIGUSR1. After each the run is resumed. Counted are: runs that did
not resume; steps lost after a SIGKILL beyond the last save that was done (expected: none); steps lost after another
signal (expected: none); and runs that did not end in the bytes of one that was never stopped. For Linux: a stopped
training is a fork of this process, which spares importing torch each time. It runs for some ten minutes.
"""

import argparse
import csv
import os
import random
import signal
import struct
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from timing import show

from detrcli.api.training import TrainingResult, train
from detrcli.data.make import make_shapes
from detrcli.errors import DetrError
from detrcli.training.loop import Training
from detrcli.training.run_folder import MACHINE_COLUMNS

SETTINGS = {
    "model": "detr-tiny", "weights": "none", "size": 32, "queries": 6, "batch_size": 2, "epochs": 8, "workers": 0,
    "save_every": 0.005, "augmentation": "flip",
}  # fmt: skip
STEP, SAVED, BEGUN = range(3)  # what a training notes, with the step
NOTE = struct.Struct("<qq")
STUCK = 120.0  # seconds without an end


def trained(data: Path, run: Path, notes: Path) -> int:
    """Begin a run, or go on with it, noting every step and every save; the exit code."""
    file = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def noting(name: str, kind: int, *, before: bool = False) -> None:
        plain: Callable[..., Any] = getattr(Training, name)

        def also(self: Training, *args: Any) -> Any:
            if before:
                os.write(file, NOTE.pack(kind, self.state.step))
            answer = plain(self, *args)
            if not before:
                os.write(file, NOTE.pack(kind, self.state.step))
            return answer

        setattr(Training, name, also)

    noting("_step", STEP)
    noting("save", SAVED)
    noting("run", BEGUN, before=True)
    begun = (run / "state").is_dir() and any((run / "state").glob("*.pt"))
    try:
        if begun:
            result = train(resume=run, report=False)
        else:
            result = train(data, out=run, settings=SETTINGS, report=False)
    except DetrError as error:
        print(error)
        return 1
    assert isinstance(result, TrainingResult)
    return result.stopped or 0


def forked(data: Path, run: Path, notes: Path) -> int:
    """The process id of a training that has been started."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        import torch

        torch.set_num_threads(1)
        code = trained(data, run, notes)
    finally:
        os._exit(code)


def read(notes: Path) -> list[tuple[int, int]]:
    """What was noted, in order."""
    data = notes.read_bytes() if notes.exists() else b""
    return [NOTE.unpack_from(data, place) for place in range(0, len(data) - NOTE.size + 1, NOTE.size)]


def writing(run: Path) -> bool:
    """Whether a file of the run is being written."""
    for folder in (run, run / "state"):
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        if any(name.startswith(".") and name != ".lock" for name in names):
            return True
    return False


@dataclass
class Found:
    """What became of the trainings that were stopped in one way."""

    stopped: int = 0
    not_resumed: int = 0
    lost: list[int] = field(default_factory=list)  # steps beyond the last save that was done
    behind: list[int] = field(default_factory=list)  # steps that are done again


def stop(child: int, how: str, run: Path, chance: random.Random) -> bool:
    """Stop a training in one way; whether it was stopped before its end."""
    ends = time.monotonic() + STUCK
    if how == "SIGKILL amid a save":
        skipped = chance.randrange(6)  # saves that are let through
        inside = False
        while time.monotonic() < ends:
            if os.waitpid(child, os.WNOHANG)[0]:
                return False
            now = writing(run)
            if now and not inside:
                if not skipped:
                    break
                skipped -= 1
            inside = now
    else:
        time.sleep(chance.uniform(0.05, 1.5))
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
    os.kill(child, getattr(signal, how.split()[0]))
    while not os.waitpid(child, os.WNOHANG)[0]:
        if time.monotonic() > ends:
            raise SystemExit(f"{how}: the training did not end")
        time.sleep(0.002)
    return True


def wait(child: int) -> int:
    """Its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def bytes_of(run: Path) -> tuple[object, ...]:
    """What a run should end in, whatever stopped it: weights, and figures but for the machine's."""
    with (run / "metrics.csv").open() as file:
        rows = [
            {name: value for name, value in row.items() if name not in MACHINE_COLUMNS} for row in csv.DictReader(file)
        ]
    return (run / "last.safetensors").read_bytes(), (run / "best.safetensors").read_bytes(), rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--signals", type=int, default=20, help="of each other kind")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    chance = random.Random(asked.seed)
    ways = [
        *["SIGKILL"] * (asked.kills - asked.kills // 4),
        *["SIGKILL amid a save"] * (asked.kills // 4),
        *[name for name in ("SIGTERM", "SIGINT", "SIGUSR1") for _ in range(asked.signals)],
    ]
    chance.shuffle(ways)
    found = {way: Found() for way in dict.fromkeys(sorted(ways))}
    runs = other = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        child = os.fork()
        if not child:
            make_shapes(root / "data", images=20, size=32, classes=("circle", "square"), objects=2)
            os._exit(0)
        wait(child)
        assert not wait(forked(root / "data", root / "whole", root / "whole.notes"))
        whole = bytes_of(root / "whole")
        while ways:
            run, notes = root / f"run-{runs}", root / f"run-{runs}.notes"
            code = None
            last: tuple[Found, int, int] | None = None  # how it was stopped, steps done, steps saved
            while True:
                child, before = forked(root / "data", run, notes), len(read(notes))
                ended = not ways or not stop(child, ways[-1], run, chance)
                if ended and not ways:
                    code = wait(child)
                seen = read(notes)
                begun = [step for kind, step in seen[before:] if kind == BEGUN]
                if last is not None and begun:
                    one, done, saved = last
                    one.lost.append(max(0, saved - begun[0]))
                    one.behind.append(done - begun[0])
                    last = None
                if ended:
                    break
                one = found[ways.pop()]
                one.stopped += 1
                # The last one, since steps that an earlier stop cost are done again.
                done = next((step for kind, step in reversed(seen) if kind in (STEP, BEGUN)), 0)
                saved = max((step for kind, step in seen if kind == SAVED), default=0)
                if last is None or len(seen) > before:  # else it had not begun, and what is lost is the one's before
                    last = (one, done, saved)
            runs += 1
            if last is not None:
                last[0].not_resumed += 1
            same = code in (None, 0) and (run / "metrics.csv").exists() and bytes_of(run) == whole
            other += not same
    show(
        [
            {
                "stopped by": way,
                "times": one.stopped,
                "not resumed": one.not_resumed,
                "most steps lost of what was saved": max(one.lost, default=0),
                "most steps done again": max(one.behind, default=0),
            }
            for way, one in found.items()
        ],
        runs=runs,
        with_other_bytes=other,
    )


if __name__ == "__main__":
    main()
