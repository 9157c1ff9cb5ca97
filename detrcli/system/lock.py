"""A lock on a folder, held by one process at a time."""

import os
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from detrcli.errors import UsageError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = ".lock"  # a killed process leaves this file behind, unlocked
_FAR = 2**30  # on Windows a locked byte cannot be read, so the locked byte lies behind the text

_FileId = tuple[int, int]  # device and inode
_held: set[_FileId] = set()  # the lock files of this process
_guard = threading.Lock()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes, and other threads of this one, out of a folder. Raises UsageError if it is locked.

    On a file system without locks, other processes are not kept out.
    """
    path = folder / LOCK
    descriptor = _acquire(path)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()} {platform.node()}".encode())
        yield
    finally:
        with _guard:
            _held.discard(_file_id(descriptor))
            with suppress(OSError):  # Windows refuses to remove the file while another process has it open
                if sys.platform != "win32":
                    path.unlink()  # still locked, so the file is our own
                os.close(descriptor)
                if sys.platform == "win32":
                    path.unlink()  # an open file cannot be removed


def _acquire(path: Path) -> int:
    """Return the descriptor of the lock file, locked."""
    # POSIX locks belong to the process: it could lock the file a second time, and closing any descriptor of a file
    # releases its lock. So our own files are recognized before they are opened.
    with _guard:
        while True:
            with suppress(FileNotFoundError):
                if _file_id(path) in _held:
                    raise _refusal(path.parent, f"process {os.getpid()} on {platform.node()}")
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                _lock(descriptor)
            except (BlockingIOError, PermissionError):
                holder = os.read(descriptor, 1000).decode(errors="replace").split()
                os.close(descriptor)
                who = f"process {holder[0]} on {holder[1]}" if len(holder) == 2 else "another process"
                raise _refusal(path.parent, who) from None
            except OSError:
                pass  # the file system has no locks
            # The previous holder may have removed the file after it was opened here.
            with suppress(FileNotFoundError):
                if _file_id(path) == _file_id(descriptor):
                    _held.add(_file_id(descriptor))
                    return descriptor
            os.close(descriptor)


def _file_id(file: Path | int) -> _FileId:
    status = os.stat(file)
    return status.st_dev, status.st_ino


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _refusal(folder: Path, who: str) -> UsageError:
    return UsageError(f"{folder} is being written by {who}.\nWait until it has ended, or use another folder.")
