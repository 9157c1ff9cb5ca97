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
_LOCKED_BYTE = 2**30  # its offset, beyond the text: on Windows a locked byte cannot be read

_FileId = tuple[int, int]  # device and inode
_held: set[_FileId] = set()  # the lock files of this process
_guard = threading.Lock()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes, and other threads of this one, out of a folder. Raises UsageError if it is locked.

    On a file system without locks, other processes are not kept out.
    """
    path = folder / LOCK
    with _guard:
        while (descriptor := _try_lock(path)) is None:
            pass
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()} {platform.node()}".encode())
        yield
    finally:
        with _guard, suppress(OSError):  # Windows refuses to remove the file while another process has it open
            _held.discard(_file_id(descriptor))
            if sys.platform == "win32":
                os.close(descriptor)  # an open file cannot be removed
            path.unlink()  # elsewhere still locked, so the file is our own
            if sys.platform != "win32":
                os.close(descriptor)


def _try_lock(path: Path) -> int | None:
    """Lock the file and return its descriptor; None if its previous holder has meanwhile removed it."""
    # POSIX locks belong to the process: it could lock the file a second time, and closing any descriptor of a file
    # releases its lock. So our own files are recognized before they are opened.
    with suppress(FileNotFoundError):
        if _file_id(path) in _held:
            raise _locked_error(path, [str(os.getpid()), platform.node()])
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.lseek(descriptor, 0, os.SEEK_SET)
        holder = os.read(descriptor, 1000).decode(errors="replace").split()
        os.close(descriptor)
        raise _locked_error(path, holder) from None
    except OSError:
        pass  # the file system has no locks
    os.lseek(descriptor, 0, os.SEEK_SET)
    with suppress(FileNotFoundError):
        if _file_id(path) == _file_id(descriptor):
            _held.add(_file_id(descriptor))
            return descriptor
    os.close(descriptor)
    return None


def _file_id(file: Path | int) -> _FileId:
    status = os.stat(file)
    return status.st_dev, status.st_ino


def _locked_error(path: Path, holder: list[str]) -> UsageError:
    who = f"process {holder[0]} on {holder[1]}" if len(holder) == 2 else "another process"
    return UsageError(f"{path.parent} is being written by {who}.\nWait until it has ended, or use another folder.")
