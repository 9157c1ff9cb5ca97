"""How long `detr predict` takes for one small picture with the `shapes-detr` weights, as a whole process.

    python examples/start_speed.py

In turn with a process that imports torch and torchvision and does nothing. Expected: at most 1.3 times that.
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
        photograph(Path(folder) / "picture.jpg", 160, 128)
        commands = {
            BARE: ["-c", "import torch, torchvision"],
            "detr predict": ["-m", "detrcli", "predict", "picture.jpg", "--weights", "shapes-detr", "--no-images"],
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
