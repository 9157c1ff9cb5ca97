"""A folder that one process at a time writes to."""

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

LOCK = ".lock"  # beside what is written; a process that was killed leaves its own, which locks nothing any more
_FAR = 2**30  # Windows lets nobody read what is locked: a byte behind everything

_File = tuple[int, int]  # device and inode
_ours: set[_File] = set()  # the lock files that this process holds
_guard = threading.Lock()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes, and other threads of this one, from a folder until this is left or the process ends.

    Where the file system knows no locks, nobody is kept out.
    """
    path = folder / LOCK
    descriptor = _take(path)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()} {platform.node()}".encode())
        yield
    finally:
        with _guard:
            _ours.discard(_file(descriptor))
            with suppress(OSError):  # another process may have opened it, which Windows minds
                if sys.platform != "win32":
                    path.unlink()  # still locked, so that nobody's but our own is removed
                os.close(descriptor)
                if sys.platform == "win32":
                    path.unlink()  # what is open cannot be removed there, nor what another has opened meanwhile


def _take(path: Path) -> int:
    """The open lock file, locked."""
    # POSIX locks belong to the process: it would be given its own once more, and gives a file's lock up with the
    # first descriptor of it that it closes. So what is ours is known before it is opened.
    with _guard:
        while True:
            with suppress(FileNotFoundError):
                if _file(path) in _ours:
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
                pass  # no locks here
            # Whoever held it may have removed the file after it was opened here.
            with suppress(FileNotFoundError):
                if _file(path) == _file(descriptor):
                    _ours.add(_file(descriptor))
                    return descriptor
            os.close(descriptor)


def _file(file: Path | int) -> _File:
    facts = os.stat(file)
    return facts.st_dev, facts.st_ino


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
    return UsageError(f"{folder} is being written by {who}.\nWait until it has ended, or give another place.")
