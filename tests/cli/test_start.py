"""Imports of a command, which decide how soon it starts."""

import subprocess
import sys
from pathlib import Path

from PIL import Image

SLOW = ("torchvision", "torch._dynamo", "sympy", "scipy", "onnx", "openvino", "pycocotools")


def test_predict_avoids_slow_imports(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    code = f"""
import atexit, sys
atexit.register(lambda: print("imported:", [name for name in {SLOW!r} if name in sys.modules]))
sys.argv = ["detr", "predict", "a.png", "--weights", "shapes", "--no-images"]
from detrcli.cli.app import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported: []"
