"""Measure the peak memory of predicting one photograph and of a training step, compared with transformers.

    pip install 'detrcli[bench]' && python examples/memory.py

DETR R50, a photograph of 640 x 480 resized to 800 x 1066, and a training step on two images of that size. Each side
runs in its own process with its usual allocator settings; imports and loading are included. Expected: not more than
transformers.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from timing import show_values

from detrcli.api.benchmarking import photograph

SETUP = {"ours": "from detrcli.system.allocator import keep_large_blocks; keep_large_blocks()", "transformers": ""}
PREDICT = {
    "ours": """
from timing import random_weights
from detrcli.inference.detector import Detector
detector = Detector(random_weights(), "cpu").without_model()
for _ in range(3): detector.predict(sys.argv[1])
""",
    "transformers": """
from predict_speed import peer
predict = peer()
for _ in range(3): predict(sys.argv[1])
""",
}
TRAIN = {
    "ours": """
from training_speed import examples, ours
step = ours("detr-r50", examples(2, 800, 1066))
for _ in range(3): step()
""",
    "transformers": """
from training_speed import examples, transformers_step
step = transformers_step(examples(2, 800, 1066))
for _ in range(3): step()
""",
}
PEAK = """
import resource
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(code: str, *args: str) -> float:
    """Return the peak memory of a process in megabytes."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{code}{PEAK}"
    done = subprocess.run(
        [sys.executable, "-c", code, *args], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    return round(int(done.stdout.split()[-1]) / 1024)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.jpg"
        photograph(path)
        megabytes = {
            f"{work} {side}": peak(f"{SETUP[side]}\n{code[side]}", str(path))
            for work, code in (("predict", PREDICT), ("train", TRAIN))
            for side in SETUP
        }
    show_values(megabytes)


if __name__ == "__main__":
    main()
