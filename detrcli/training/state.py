"""The state of a training, in memory and on disk. Files are written atomically, and damaged files are detected."""

import hashlib
import io
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from detrcli.errors import WeightsError
from detrcli.messages import argument
from detrcli.system import distributed
from detrcli.training.monitor import Monitor
from detrcli.training.run_status import is_unbegun
from detrcli.training.step import StepResult, Trainer

FOLDER = "state"
FORMAT = 1
KEPT_STATES = 2
_NAME = re.compile(r"(\d{8})-([0-9a-f]{16})\.pt")


@dataclass
class EpochMetrics:
    """Sums over the steps of an epoch so far, in one process."""

    steps: int = 0
    images: int = 0
    updates: int = 0  # steps with a finite gradient; fp16 skips the others
    seconds: float = 0.0
    waiting: float = 0.0  # seconds of waiting for data
    numbers: dict[str, float] = field(default_factory=dict)  # as in StepResult; `norm` only of finite gradients

    def add(self, result: StepResult, seconds: float, waiting: float) -> None:
        finite = math.isfinite(result.numbers["norm"])
        self.steps += 1
        self.images += result.images
        self.updates += finite
        self.seconds += seconds
        self.waiting += waiting
        for name, value in result.numbers.items():
            self.numbers[name] = self.numbers.get(name, 0.0) + (value if finite or name != "norm" else 0.0)


def redistributed(counted: Sequence[EpochMetrics], processes: int) -> EpochMetrics:
    """Divide the sums that another number of processes has counted equally among `processes`, and return one share."""
    count = len(counted)
    numbers = {name: sum(sums.numbers[name] for sums in counted) / count for name in counted[0].numbers}
    for name in numbers.keys() & {"matched", "wrong"}:  # added over the processes; the others are averaged
        numbers[name] *= count / processes
    return replace(
        counted[0],
        images=sum(sums.images for sums in counted) // processes,
        seconds=sum(sums.seconds for sums in counted) / count,
        waiting=sum(sums.waiting for sums in counted) / count,
        numbers=numbers,
    )


class TrainingState:
    """Everything that changes during a training. Random numbers depend only on the seed and the step."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.step = 0  # completed steps
        self.rows: list[dict[str, float | None]] = []  # of completed epochs
        self.sums = EpochMetrics()  # of the current epoch, in this process
        self.monitor = Monitor()
        self._earlier_seconds = 0.0  # of previous sessions, if resumed
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """The duration of the training, in all sessions."""
        return self._earlier_seconds + time.perf_counter() - self._began

    def document(self, sums: Sequence[EpochMetrics]) -> dict[str, Any]:
        """Return the state as tensors and plain values; `sums` are those of each process."""
        return {
            **self.trainer.state_dict(),
            "step": self.step,
            "rows": self.rows,
            "sums": [asdict(of_process) for of_process in sums],
            "monitor": asdict(self.monitor),
            "seconds": self.seconds,
        }

    def restore(self, document: Mapping[str, Any]) -> None:
        self.trainer.load_state_dict(document)
        self.step, self.rows = document["step"], document["rows"]
        sums = [EpochMetrics(**of_process) for of_process in document["sums"]]
        world = distributed.world_size()
        self.sums = sums[distributed.rank()] if len(sums) == world else redistributed(sums, world)
        self.monitor = Monitor(**document["monitor"])
        self._earlier_seconds = document["seconds"]


def save_state(run: Path, state: dict[str, Any]) -> Path:
    """Write `RUN/state/NUMBER-HASH.pt` atomically, and keep the last two states. HASH is that of the contents."""
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    data = buffer.getbuffer()
    number = max((_number(old) for old in _states(run)), default=0) + 1
    path = folder / f"{number:08d}-{hashlib.sha256(data).hexdigest()[:16]}.pt"
    temporary = folder / ".unfinished"  # a fixed name, so that killed processes leave a single file
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:  # when the disk is full, it does not name the file
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    for old in _states(run)[KEPT_STATES:]:
        old.unlink(missing_ok=True)
    return path


def load_state(run: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the last intact state, and notes about damaged states. Raises WeightsError if there is none."""
    notes: list[str] = []
    for path in _states(run):
        try:
            state = _read(path)
        except ValueError as problem:
            notes.append(f"{path}: {problem}; the state before it is used")
            continue
        if state.get("format") != FORMAT:
            raise WeightsError(
                f"{path}: written by another version of detr.\n"
                f"Start a new run from the weights of this run: {argument('weights', run)}."
            )
        return state, notes
    if notes:
        raise WeightsError(f"{run}: all states of this run are damaged.\n{notes[0].partition(';')[0]}.")
    hint = "Give the folder of a run."
    if is_unbegun(run):
        hint = f"It was stopped before its first state: start it again with the same {argument('out')}."
    raise WeightsError(f"{run}: no training state (no {FOLDER}/*.pt).\n{hint}")


def _read(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    if hashlib.sha256(data).hexdigest()[:16] != path.stem.split("-")[1]:
        raise ValueError("damaged: its contents do not match the hash in its name")
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises exceptions of all kinds
        problem = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"not a training state ({problem})") from None
    if not isinstance(state, dict):
        raise ValueError(f"not a training state (it contains a {type(state).__name__})")
    return state


def _states(run: Path) -> list[Path]:  # the newest first
    try:
        paths = [path for path in (run / FOLDER).iterdir() if _NAME.fullmatch(path.name)]
    except OSError:
        return []
    return sorted(paths, key=_number, reverse=True)


def _number(path: Path) -> int:
    return int(path.name.split("-")[0])
