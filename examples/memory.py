"""The most memory that predicting one photograph, and a training step, take: ours beside transformers.

    pip install 'detrcli[bench]' && python examples/memory.py

DETR R50, a photograph of 640 x 480 at 800 x 1066, and a step on two pictures of that size, each side in a process of
its own with the allocator that its users have; what importing and loading take is within. Expected: not more than
transformers.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

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
    """Megabytes that a process took at most."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{code}{PEAK}"
    done = subprocess.run(
        [sys.executable, "-c", code, *args], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    return round(int(done.stdout.split()[-1]) / 1024)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.jpg"
        photograph(path)
        found = {
            f"{work} {side}": peak(f"{SETUP[side]}\n{code[side]}", str(path))
            for work, code in (("predict", PREDICT), ("train", TRAIN))
            for side in SETUP
        }
    for name, megabytes in found.items():
        print(f"{name:<22} {megabytes:>6} MB")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
