"""Measure a complete `detr predict` process on one small image with the `shapes-detr` weights.

    python examples/start_speed.py

Alternates with a process that only imports torch and torchvision. Expected: at most 1.3 times as long.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from timing import compared, in_turn, show

from detrcli.api.benchmarking import photograph

ROUNDS = 10
BARE = "import torch and torchvision"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        photograph(Path(folder) / "image.jpg", 160, 128)
        commands = {
            BARE: ["-c", "import torch, torchvision"],
            "detr predict": ["-m", "detrcli", "predict", "image.jpg", "--weights", "shapes-detr", "--no-images"],
        }
        ways = {
            name: lambda command=command: subprocess.run(
                [sys.executable, *command], cwd=folder, check=True, capture_output=True
            )
            for name, command in commands.items()
        }
        show(compared(in_turn(ways, ROUNDS), BARE))


if __name__ == "__main__":
    main()
