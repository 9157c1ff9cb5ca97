"""What is told to users of exceptions that are not ours."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset

from detrcli.errors import MachineError, UsageError, loader_was_killed, to_user_error


class _Loading(Dataset[int]):
    """What a loader's process does instead of loading a picture."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act = act

    def __len__(self) -> int:
        return 1

    def __getitem__(self, place: int) -> int:
        self.act()
        return place


def _missing() -> object:
    facts: dict[str, Any] = {}
    return facts["DataLoader worker (pid 1)"]


def _leave() -> None:
    os._exit(3)


def _be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _raised(act: Callable[[], object]) -> BaseException:
    with pytest.raises(Exception, match="DataLoader worker") as caught:
        list(DataLoader(_Loading(act), num_workers=1))
    return caught.value


@pytest.mark.parametrize(
    "act", [_leave, pytest.param(_be_killed, marks=pytest.mark.skipif(os.name == "nt", reason="signals"))]
)
def test_a_loader_process_that_was_killed_is_the_machines_fault(act: Callable[[], object]) -> None:
    error = _raised(act)
    assert loader_was_killed(error)
    assert isinstance(to_user_error(error), MachineError)


def test_an_exception_inside_a_loader_process_is_a_bug_of_ours() -> None:
    error = _raised(_missing)
    assert not loader_was_killed(error)
    assert to_user_error(error) is None


def test_a_name_that_is_too_long_is_the_users_to_change(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too long") as caught:
        (tmp_path / ("a" * 300)).touch()
    error = to_user_error(caught.value)
    assert isinstance(error, UsageError)
    assert str(tmp_path) in str(error)
    assert "Give a shorter name." in str(error)
