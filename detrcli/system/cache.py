"""Where things are kept between runs."""

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """DETR_CACHE, else the system's place for such things."""
    if chosen := os.environ.get("DETR_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "detrcli"
