"""What the command line may leave out, filled in before it is read."""

from collections.abc import Sequence
from pathlib import Path

from detrcli.cli.console import warn
from detrcli.errors import UsageError

RUNS = Path("runs")
RESUME = "--resume"


def completed(arguments: Sequence[str]) -> list[str]:
    """The arguments with the latest run behind a bare `train --resume`: no option of typer has an optional value."""
    full = list(arguments)
    if full[:1] != ["train"] or RESUME not in full:
        return full
    value = full.index(RESUME) + 1
    if full[value : value + 1] and not full[value].startswith("-"):
        return full
    run = latest_run(RUNS)
    if run is None:
        raise UsageError(f"{RESUME}: there is no run below {RUNS}/. Give the folder of one: {RESUME} RUN.")
    warn(f"going on with {run}, the latest run")
    return [*full[:value], str(run), *full[value:]]


def latest_run(folder: Path) -> Path | None:
    """The run below a folder whose training state was written last."""
    states = [path for path in folder.glob("**/state/*.pt") if path.is_file()]
    newest = max(states, key=lambda path: path.stat().st_mtime, default=None)
    return newest and newest.parent.parent
