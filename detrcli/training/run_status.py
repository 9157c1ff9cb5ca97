"""Whether a folder is a run, and whether its training can be resumed. Imports no torch: it is checked first."""

import re
from pathlib import Path

from detrcli.system.lock import LOCK

CONFIG, FIRST_BATCH, TENSORBOARD = "config.toml", "first-batch.png", "tensorboard"
METRICS_FILE = "metrics.csv"
SOURCE = "data.json"  # the data that the run is trained on
HEAD = "# detr train "  # the start of config.toml
_UNFINISHED = re.compile(r"\.[0-9a-f]{32}|\.unfinished")  # temporary files of a killed process


def is_run(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and (folder / METRICS_FILE).is_file()


def is_unbegun(run: Path) -> bool:
    """Return whether a folder has only the files that a training writes before its first state."""
    try:
        ours = (run / CONFIG).read_text(encoding="utf-8").startswith(HEAD)
        names = {path.name for path in run.iterdir()}
        states = {path.name for path in (run / "state").iterdir()} if "state" in names else set()
    except (OSError, ValueError):
        return False
    left = {name for name in names | states if not _UNFINISHED.fullmatch(name)}
    return ours and left <= {CONFIG, FIRST_BATCH, SOURCE, TENSORBOARD, LOCK, "state"}
