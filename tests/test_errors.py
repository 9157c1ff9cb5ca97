"""Exceptions of other libraries as errors for users."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset

from detrcli.errors import MachineError, UsageError, loader_was_killed, to_user_error


class _Loading(Dataset[int]):
    """A dataset that acts instead of loading an image."""

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
def test_a_killed_loader_process_is_a_machine_error(act: Callable[[], object]) -> None:
    error = _raised(act)
    assert loader_was_killed(error)
    assert isinstance(to_user_error(error), MachineError)


def test_an_exception_inside_a_loader_process_is_internal() -> None:
    error = _raised(_missing)
    assert not loader_was_killed(error)
    assert to_user_error(error) is None


def test_a_name_that_is_too_long_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too long") as caught:
        (tmp_path / ("a" * 300)).touch()
    error = to_user_error(caught.value)
    assert isinstance(error, UsageError)
    assert str(tmp_path) in str(error)


def test_messages_mention_arguments() -> None:
    """In Python as parameters; the CLI words the same mark as an option."""
    error = to_user_error(MemoryError())
    assert isinstance(error, MachineError)
    assert "`batch_size`" in str(error)
    assert "--batch_size" in error.text(lambda name, value: f"--{name}")
    assert str(UsageError(f"left out: {error.message}")) == f"left out: {error}"
