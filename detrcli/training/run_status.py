"""Whether a run folder holds anything yet. Without torch: it is asked before that is imported."""

import re
from pathlib import Path

from detrcli.system.lock import LOCK

CONFIG, FIRST_BATCH, TENSORBOARD = "config.toml", "first-batch.png", "tensorboard"
SOURCE = "data.json"  # which data it is trained on
HEAD = "# detr train "  # how our config.toml begins
_UNFINISHED = re.compile(r"\.[0-9a-f]{32}|\.unfinished")  # what a kill amid a write leaves


def is_unbegun(run: Path) -> bool:
    """Whether there is only what a training leaves before its first state: nothing to lose or to go on with."""
    try:
        ours = (run / CONFIG).read_text(encoding="utf-8").startswith(HEAD)
        names = {path.name for path in run.iterdir()}
        states = {path.name for path in (run / "state").iterdir()} if "state" in names else set()
    except (OSError, ValueError):
        return False
    left = {name for name in names | states if not _UNFINISHED.fullmatch(name)}
    return ours and left <= {CONFIG, FIRST_BATCH, SOURCE, TENSORBOARD, LOCK, "state"}
