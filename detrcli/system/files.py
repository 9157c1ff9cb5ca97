"""Atomic writes of files and folders, free output folders, and the cache folder."""

import io
import os
import shutil
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_whole(path: Path, data: bytes) -> None:
    """Write a file atomically; an existing file or link of this name is replaced."""
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:  # the error names no file if the disk is full
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_whole_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder that gets its name once all its files are written; an existing folder is replaced.

    Two folders cannot be exchanged portably in a single step. Between two renames the old folder has a backup name,
    under which `whole_folder` finds it after a crash.
    """
    backup = _backup(path)
    try:
        with new_folder(path) as temporary:
            for name, data in files.items():
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                (temporary / name).write_bytes(data)
            if path.exists():
                shutil.rmtree(backup, ignore_errors=True)
                os.replace(path, backup)
        shutil.rmtree(backup, ignore_errors=True)
    except OSError as error:  # the error names no file if the disk is full
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `path` at the end; an empty folder there is replaced."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.is_dir():
            path.rmdir()  # some systems do not replace an empty folder
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def whole_folder(path: Path) -> Path:
    """Return the path of a folder written by `write_whole_folder`: its own, or its backup's after a crash."""
    backup = _backup(path)
    return backup if backup.is_dir() and not path.exists() else path


def _backup(path: Path) -> Path:
    return path.with_name(f".{path.name}.before")


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    import numpy as np  # slow to import, and not needed for the cache folder

    data = io.BytesIO()
    np.savez_compressed(data, **arrays)
    write_whole(path, data.getvalue())


def next_free_folder(name: str) -> Path:
    """Create and return a new folder of this name, with the next free number appended if it exists."""
    number = 1
    while True:
        path = Path(name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return path


def cache_folder() -> Path:
    """Return the user's cache folder: DETR_CACHE, or the system's place for caches."""
    if folder := os.environ.get("DETR_CACHE"):
        return Path(folder).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "detrcli"
