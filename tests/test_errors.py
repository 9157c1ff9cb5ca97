"""Exceptions of other libraries as errors for users, and messages that mention arguments."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from detrcli.errors import MachineError, UsageError, loader_was_killed, to_user_error
from detrcli.messages import argument, word
from detrcli.reporter import Reporter


@dataclass
class Loading(Dataset[int]):
    """A dataset that acts instead of loading an image."""

    act: Callable[[], object]

    def __len__(self) -> int:
        return 1

    def __getitem__(self, place: int) -> object:
        return self.act()


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda: os._exit(3), MachineError),
        pytest.param(
            lambda: os.kill(os.getpid(), signal.SIGKILL), MachineError,
            marks=pytest.mark.skipif(os.name == "nt", reason="signals"),
        ),
        (lambda: {}["DataLoader worker (pid 1)"], type(None)),  # a bug
    ],
    ids=["exit", "kill", "bug"],
)  # fmt: skip
def test_a_killed_loader_process_is_a_machine_error(act: Callable[[], object], expected: type) -> None:
    with pytest.raises(Exception, match="DataLoader worker") as caught:
        list(DataLoader(Loading(act), num_workers=1))
    assert type(to_user_error(caught.value)) is expected
    assert loader_was_killed(caught.value) == (expected is MachineError)


def test_a_name_that_is_too_long_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too long") as caught:
        (tmp_path / ("a" * 300)).touch()
    error = to_user_error(caught.value)
    assert isinstance(error, UsageError)
    assert str(tmp_path) in str(error)


def test_arguments_are_worded_for_the_interface() -> None:
    text = f"Use a smaller {argument('batch_size')}, or {argument('norm', 'group')}."
    error = UsageError(text)
    assert str(error) == "Use a smaller `batch_size`, or `norm=group`."
    worded = error.text(lambda name, value: f"--{name}" + (f" {value}" if value else ""))
    assert worded == "Use a smaller --batch_size, or --norm group."
    assert str(UsageError(f"left out: {error.message}")) == f"left out: {error}"
    assert word("No argument.") == "No argument."


@dataclass
class Listed(Reporter):
    """Collects the notes."""

    shown: list[str] = field(default_factory=list)
    wording = staticmethod(lambda name, value: name.upper())

    def show(self, text: str) -> None:
        self.shown.append(text)


def test_a_reporter_gets_worded_notes() -> None:
    reporter = Listed()
    reporter.note(f"{argument('loss.class')} is 1.")
    assert reporter.shown == ["LOSS.CLASS is 1."]
    with reporter.progress("reading", 3) as advance:
        advance(1)


def test_of_several_processes_the_first_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes that occurred in a single process are shown by every process."""
    reporter = Listed()
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        reporter.note(f"all {rank}")
        reporter.note(f"alone {rank}", alone=True)
    assert reporter.shown == ["all 0", "alone 0", "alone 1"]
