"""`import detrcli` as Python users meet it."""

import subprocess
import sys

import detrcli


def test_dir_lists_the_public_names() -> None:
    """In a process of its own, because names that were used before are listed anyway."""
    code = "import detrcli, sys; print(*dir(detrcli)); print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, torch = shown.stdout.splitlines()
    assert names.split() == sorted(detrcli.__all__)
    assert {"Detector", "load"} <= set(names.split())
    assert torch == "False"
    assert all(hasattr(detrcli, name) for name in dir(detrcli))
