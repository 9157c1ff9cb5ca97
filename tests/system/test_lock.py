"""A folder is locked by one process at a time, and unlocked when that process ends in any way."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from detrcli.errors import UsageError
from detrcli.system.lock import LOCK, locked

HOLD = """
import os, sys, time
from pathlib import Path
from detrcli.system.lock import locked
with locked(Path(sys.argv[1])):
    if sys.argv[2:] and not os.fork():
        time.sleep(60)  # like a loader process that has not noticed the end of its parent
        os._exit(0)
    print("held", flush=True)
    sys.stdin.readline()
"""

# `mkdir` fails if another process is inside. The lock file is made and removed each time.
COMPETE = """
import sys, time
from pathlib import Path
from detrcli.errors import UsageError
from detrcli.system.lock import locked
folder, entered = Path(sys.argv[1]), 0
while entered < 40:
    try:
        with locked(folder):
            (folder / "inside").mkdir()
            (folder / "inside").rmdir()
            entered += 1
    except UsageError:
        time.sleep(0)
"""


def holder(folder: Path, *args: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), *args],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    return process


def test_another_process_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        for _ in range(2):
            with pytest.raises(UsageError) as refused, locked(tmp_path):
                pass
            assert f"is being written by process {process.pid} on {socket.gethostname()}" in str(refused.value)
        process.communicate("\n")
    assert process.returncode == 0
    for _ in range(2):
        assert not list(tmp_path.iterdir())
        with locked(tmp_path):
            pass


@pytest.mark.skipif(os.name == "nt", reason="signals and forks")
def test_a_killed_process_and_its_children_hold_no_lock(tmp_path: Path) -> None:
    with holder(tmp_path, "with a child") as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert (tmp_path / LOCK).exists()
        with locked(tmp_path):
            pass
        os.killpg(process.pid, signal.SIGKILL)


def test_a_process_does_not_lock_twice(tmp_path: Path) -> None:
    """Until it is unlocked, also by an exception; folders inside are locked separately."""
    with locked(tmp_path):
        with pytest.raises(UsageError, match=f"by process {os.getpid()} on"), locked(tmp_path):
            pass
        other = subprocess.run(
            [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert f"by process {os.getpid()} on" in other.stderr  # the refused attempt did not release the lock
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    (tmp_path / "inner").mkdir()
    with locked(tmp_path), locked(tmp_path / "inner"):
        assert (tmp_path / LOCK).exists()
        assert (tmp_path / "inner" / LOCK).exists()


def test_competing_processes_exclude_each_other(tmp_path: Path) -> None:
    several = [subprocess.Popen([sys.executable, "-c", COMPETE, str(tmp_path)]) for _ in range(3)]
    assert [process.wait(60) for process in several] == [0, 0, 0]
