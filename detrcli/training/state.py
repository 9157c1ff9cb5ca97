"""A training's whole state on disk: written whole or not at all, recognised when damaged, the last two kept."""

import hashlib
import io
import os
import re
from pathlib import Path
from typing import Any

import torch

from detrcli.errors import WeightsError
from detrcli.training.run_status import is_unbegun

FOLDER = "state"
FORMAT = 1  # of what is in a state
KEPT = 2
_NAME = re.compile(r"(\d{8})-([0-9a-f]{16})\.pt")


def save_state(run: Path, state: dict[str, Any]) -> Path:
    """Write `RUN/state/NUMBER-HASH.pt` and remove all but the newest two.

    The hash is part of the name, so that one rename makes both valid.
    """
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    data = buffer.getbuffer()
    number = max((_number(old) for old in _states(run)), default=0) + 1
    path = folder / f"{number:08d}-{hashlib.sha256(data).hexdigest()[:16]}.pt"
    temporary = folder / ".unfinished"  # always this name, or each kill amid a write would leave another
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:  # which names no file where the disk is full
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    for old in _states(run)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def load_state(run: Path) -> tuple[dict[str, Any], list[str]]:
    """The newest state that is whole, and what is to be said of those that are not."""
    notes: list[str] = []
    for path in _states(run):
        problem = None
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest()[:16] != path.stem.split("-")[1]:
                problem = "it is damaged: its contents do not fit the hash in its name"
            else:
                state = _load(data)
                if state.get("format") != FORMAT:
                    raise WeightsError(
                        f"{path}: written by another version of detr.\n"
                        f"Start a new run from the weights of this one: --weights {run}."
                    )
                return state, notes
        except OSError as error:
            problem = f"it cannot be read ({error.strerror})"
        except ValueError as error:
            problem = f"it is none of ours ({error})"
        notes.append(f"{path}: {problem}; falling back to the state before it")
    if notes:
        raise WeightsError(f"{run}: no state of this run is whole.\n{notes[0].partition(';')[0]}.")
    hint = (
        "It was stopped before its first one: begin it again, with the same --out."
        if is_unbegun(run)
        else "Name the folder of a run."
    )
    raise WeightsError(f"{run}: there is no training state in it (no {FOLDER}/*.pt).\n{hint}")


def _load(data: bytes) -> dict[str, Any]:
    """The contents of a state; a ValueError where they are none, though the hash fits them."""
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # there is nothing that torch's reader does not raise
        raise ValueError(str(error).partition("\n")[0] or type(error).__name__) from None
    if not isinstance(state, dict):
        raise ValueError(f"it holds a {type(state).__name__}")
    return state


def _states(run: Path) -> list[Path]:
    """Newest first."""
    try:
        there = [path for path in (run / FOLDER).iterdir() if _NAME.fullmatch(path.name)]
    except OSError:
        return []
    return sorted(there, key=_number, reverse=True)


def _number(path: Path) -> int:
    return int(path.name.split("-")[0])
