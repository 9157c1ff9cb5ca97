"""A message mentions arguments, which every interface words in its own way."""

import pytest

from detrcli.errors import UsageError
from detrcli.messages import argument, word
from detrcli.reporter import Reporter


def test_arguments_are_worded_for_the_interface() -> None:
    text = f"Use a smaller {argument('batch_size')}, or {argument('norm', 'group')}."
    assert str(UsageError(text)) == "Use a smaller `batch_size`, or `norm=group`."
    worded = UsageError(text).text(lambda name, value: f"--{name}" + (f" {value}" if value else ""))
    assert worded == "Use a smaller --batch_size, or --norm group."
    assert word("No argument.") == "No argument."


def test_a_reporter_gets_worded_notes() -> None:
    shown = []

    class Listed(Reporter):
        wording = staticmethod(lambda name, value: name.upper())

        def show(self, text: str) -> None:
            shown.append(text)

    Listed().note(f"{argument('loss.class')} is 1.")
    assert shown == ["LOSS.CLASS is 1."]
    with Listed().progress("reading", 3) as advance:
        advance(1)


def test_of_several_processes_the_first_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes that occurred in a single process are shown by every process."""
    shown = []

    class Listed(Reporter):
        def show(self, text: str) -> None:
            shown.append(text)

    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        Listed().note(f"all {rank}")
        Listed().note(f"alone {rank}", alone=True)
    assert shown == ["all 0", "alone 0", "alone 1"]
