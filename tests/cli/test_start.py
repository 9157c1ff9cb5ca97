"""Imports of a command, which decide how soon it starts."""

import subprocess
import sys
from pathlib import Path

import pytest
from folders import coco

SLOW = ["torchvision", "torch._dynamo", "sympy", "scipy", "onnx", "openvino", "pycocotools"]


@pytest.mark.parametrize(
    ("call", "unused"),
    [
        ("predict data/train/a.png --weights shapes --no-images", SLOW),
        ("eval data --split train --predictions r.json", ["torch"]),
    ],
)
def test_a_command_avoids_slow_imports(call: str, unused: list[str], tmp_path: Path) -> None:
    coco(tmp_path / "data")
    (tmp_path / "r.json").write_text("[]")
    code = f"""
import atexit, sys
atexit.register(lambda: print("imported:", [name for name in {unused!r} if name in sys.modules]))
sys.argv = ["detr", *{call.split()!r}]
from detrcli.cli.app import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported: []"
