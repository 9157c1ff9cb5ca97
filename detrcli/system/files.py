"""Files and folders that are whole or not there."""

import io
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that gets its name only once all of it is written; one of that name, or a link, is replaced."""
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:  # which names no file where the disk is full
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_whole_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder that gets its name only once all of it is written; one of that name is replaced.

    No system exchanges two folders in one step: between two renames the old one stands under `_kept_back`, where
    `whole_folder` finds it if that was the end.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    try:
        temporary.mkdir(parents=True)
        for name, data in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_bytes(data)
        back = _kept_back(path)
        if path.exists():
            shutil.rmtree(back, ignore_errors=True)
            os.replace(path, back)
        os.replace(temporary, path)
        shutil.rmtree(back, ignore_errors=True)
    except OSError as error:  # which names no file where the disk is full
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def whole_folder(path: Path) -> Path:
    """Where a folder that was written so is: at its name, or where the last one was put before it."""
    back = _kept_back(path)
    return back if back.is_dir() and not path.exists() else path


def _kept_back(path: Path) -> Path:
    return path.with_name(f".{path.name}.before")


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays by their names, as an .npz."""
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)
    write_whole(path, data.getvalue())


def next_free_folder(name: str) -> Path:
    """A new folder of this name, or with the next free number behind it."""
    number = 1
    while True:
        path = Path(name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return path
