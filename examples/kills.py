"""Kill trainings at random moments and during saves, resume them, and check that nothing is lost.

    python examples/kills.py [--kills 200] [--signals 20] [--seed 0]

Small trainings that save several times per second are stopped by SIGKILL, a quarter of the time while a file is being
written, and by SIGTERM, SIGINT and SIGUSR1. Each run is then resumed. Counts runs that did not resume, saved steps
that were lost (expected: none, and after SIGTERM, SIGINT and SIGUSR1 no steps are repeated), and runs whose final
bytes differ from an uninterrupted run. Requires Linux, because trainings are forks of this process, which saves
importing torch. Takes about ten minutes.
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
STEP, SAVED, BEGUN = range(3)  # events of a training, recorded with the step
EVENT = struct.Struct("<qq")
STUCK = 120.0  # seconds until a training counts as hanging


def trained(data: Path, run: Path, notes: Path) -> int:
    """Start or resume a run, record every step and every save, and return the exit code."""
    file = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def record(name: str, kind: int, *, before: bool = False) -> None:
        method: Callable[..., Any] = getattr(Training, name)

        def recorded(self: Training, *args: Any) -> Any:
            if before:
                os.write(file, EVENT.pack(kind, self.state.step))
            result = method(self, *args)
            if not before:
                os.write(file, EVENT.pack(kind, self.state.step))
            return result

        setattr(Training, name, recorded)

    record("_step", STEP)
    record("save", SAVED)
    record("run", BEGUN, before=True)
    try:
        if any((run / "state").glob("*.pt")):
            result = train(resume=run, report=False)
        else:
            result = train(data, out=run, settings=SETTINGS, report=False)
    except DetrError as error:
        print(error)
        return 1
    assert isinstance(result, TrainingResult)
    return result.stopped or 0


def forked(data: Path, run: Path, notes: Path) -> int:
    """Start a training in a forked process and return its process id."""
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
    """Return the recorded events in order."""
    data = notes.read_bytes() if notes.exists() else b""
    return [EVENT.unpack_from(data, offset) for offset in range(0, len(data) - EVENT.size + 1, EVENT.size)]


def writing(run: Path) -> bool:
    """Return whether a file of the run is being written."""
    return any(path.name != ".lock" for pattern in (".*", "state/.*") for path in run.glob(pattern))


@dataclass
class Outcome:
    """Counts for the trainings that were stopped in the same way."""

    stopped: int = 0
    not_resumed: int = 0
    lost: list[int] = field(default_factory=list)  # saved steps that were lost
    repeated: list[int] = field(default_factory=list)  # steps that were repeated


def stop(child: int, how: str, run: Path, chance: random.Random) -> bool:
    """Stop a training; return whether it was stopped before its end."""
    deadline = time.monotonic() + STUCK
    if how == "SIGKILL during a save":
        skipped = chance.randrange(6)  # saves to skip
        inside = False
        while time.monotonic() < deadline:
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
        if time.monotonic() > deadline:
            raise SystemExit(f"{how}: the training did not end")
        time.sleep(0.002)
    return True


def wait(child: int) -> int:
    """Wait for a process and return its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def bytes_of(run: Path) -> tuple[object, ...]:
    """Return the weights and the metrics of a run, without columns that depend on the machine."""
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    rows = [{name: value for name, value in row.items() if name not in MACHINE_COLUMNS} for row in rows]
    return (run / "last.safetensors").read_bytes(), (run / "best.safetensors").read_bytes(), rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--signals", type=int, default=20, help="number of SIGTERM, SIGINT and SIGUSR1 each")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    ways = [
        *["SIGKILL"] * (args.kills - args.kills // 4),
        *["SIGKILL during a save"] * (args.kills // 4),
        *[name for name in ("SIGTERM", "SIGINT", "SIGUSR1") for _ in range(args.signals)],
    ]
    chance.shuffle(ways)
    outcomes = {way: Outcome() for way in dict.fromkeys(sorted(ways))}
    runs = different = 0
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
            last: tuple[Outcome, int, int] | None = None  # of the last stop, with steps done and steps saved
            while True:
                child, before = forked(root / "data", run, notes), len(read(notes))
                ended = not ways or not stop(child, ways[-1], run, chance)
                if ended and not ways:
                    code = wait(child)
                events = read(notes)
                begun = [step for kind, step in events[before:] if kind == BEGUN]
                if last is not None and begun:
                    outcome, done, saved = last
                    outcome.lost.append(max(0, saved - begun[0]))
                    outcome.repeated.append(done - begun[0])
                    last = None
                if ended:
                    break
                outcome = outcomes[ways.pop()]
                outcome.stopped += 1
                # The last event, because an earlier stop may have repeated steps.
                done = next((step for kind, step in reversed(events) if kind in (STEP, BEGUN)), 0)
                saved = max((step for kind, step in events if kind == SAVED), default=0)
                # If it had not begun, the previous stop still counts.
                if last is None or len(events) > before:
                    last = (outcome, done, saved)
            runs += 1
            if last is not None:
                last[0].not_resumed += 1
            same = code in (None, 0) and (run / "metrics.csv").exists() and bytes_of(run) == whole
            different += not same
    show(
        [
            {
                "stopped by": way,
                "times": outcome.stopped,
                "not resumed": outcome.not_resumed,
                "most saved steps lost": max(outcome.lost, default=0),
                "most steps repeated": max(outcome.repeated, default=0),
            }
            for way, outcome in outcomes.items()
        ],
        runs=runs,
        with_different_bytes=different,
    )


if __name__ == "__main__":
    main()
