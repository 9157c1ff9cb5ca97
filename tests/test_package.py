"""`import detrcli` as Python users meet it."""

import subprocess
import sys

import detrcli


def test_dir_lists_the_public_names() -> None:
    """In a process of its own, because names that were used before are listed anyway."""
    code = "import detrcli; print(*dir(detrcli))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == sorted(detrcli.__all__)
    assert {"Detector", "load"} <= set(detrcli.__all__)
    assert all(hasattr(detrcli, name) for name in detrcli.__all__)
