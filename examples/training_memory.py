"""What the policy for memory costs and saves: training on pictures of many sizes, and a detr-r50's forward.

    python examples/training_memory.py

Each policy in processes of its own, in turn, on one thread: glibc and oneDNN as they are; large blocks always given
back to the kernel; and what the commands choose (detrcli/system/allocator.py). A training of detr-tiny on 60 pictures
with sides from 96 to 320 says after each epoch what is resident, and at its end the most that ever was; the forward
is that of a detr-r50 of random weights on four sizes. Speeds are compared within a round. Linux with glibc only.
Expected of what is chosen: after epoch 15 at most 1.1 times the memory of epoch 3, training and forward at least as
fast as with the default. It runs for some ten minutes.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from detrcli.system import allocator

PICTURES, EPOCHS, ROUNDS = 60, 15, 2

# mallopt's options, oneDNN's primitives, and whether memory is given back after each epoch.
POLICIES = {
    "default": ({}, "1024", False),
    "given back": ({"mmap_threshold": (-3, 1 << 20)}, "1024", False),
    "chosen": (dict(allocator.OPTIONS), allocator.PRIMITIVES, True),
}

# The command line under another policy.
COMMAND = """
import json, sys
from detrcli.system import allocator
allocator.OPTIONS, allocator.PRIMITIVES, trims = json.loads(sys.argv[1])
if not trims:
    from detrcli.training import loop
    loop.give_back = lambda: None
sys.argv = ["detr", *sys.argv[2:]]
from detrcli.cli.app import main
main()
"""

FORWARD = """
import json, sys, time
from detrcli.system import allocator
allocator.OPTIONS, allocator.PRIMITIVES, _ = json.loads(sys.argv[1])
allocator.keep_large_blocks()
import torch
from detrcli.structures import Batch
from detrcli.architectures import preset
architecture, config = preset("detr-r50")
model = architecture.build(config).eval()
sizes = [(480, 640), (512, 512), (416, 608), (640, 480)]
def forward():
    start = time.perf_counter()
    with torch.inference_mode():
        for h, w in sizes:
            model(Batch(torch.rand(1, 3, h, w), None))
    return (time.perf_counter() - start) / len(sizes)
forward()
print(min(forward() for _ in range(2)))
"""


def write_data(folder: Path) -> None:
    """A COCO folder of noise in random sizes, three boxes in each picture."""
    rng = np.random.default_rng(0)
    (folder / "annotations").mkdir(parents=True)
    for split, count in (("train", PICTURES), ("val", 4)):
        (folder / split).mkdir()
        images, annotations = [], []
        for i in range(count):
            w, h = rng.integers(96, 321, 2).tolist()
            noise = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            noise.resize((w, h)).save(folder / split / f"{i}.png")
            images.append({"id": i, "file_name": f"{i}.png", "width": w, "height": h})
            for _ in range(3):
                x, y = (rng.random(2) * 0.5 * (w, h)).tolist()
                box = [x, y, 0.3 * w, 0.3 * h]
                annotations.append({"id": len(annotations), "image_id": i, "category_id": 1, "bbox": box})
        document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))


def child(code: str, policy: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(POLICIES[policy]), *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def megabytes(pid: int, what: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(rf"{what}:\s+(\d+) kB", status)[0]) // 1000


def epochs_of(process: subprocess.Popen[str], said: list[str]) -> Iterator[tuple[int, int, float]]:
    """After each epoch that a training tells: what is resident, the most that ever was, and pictures a second."""
    for line in process.stderr:
        said.append(line)
        if epoch := re.match(r"epoch \d+  .* ([\d.]+) pictures/s$", line):
            yield megabytes(process.pid, "VmRSS"), megabytes(process.pid, "VmHWM"), float(epoch[1])


def settings(data: Path, out: Path) -> list[object]:
    """The training that is measured."""
    return [
        "train", data, "--model", "detr-tiny", "--size", 160, "--batch-size", 4, "--epochs", EPOCHS,
        "--device", "cpu", "--out", out, "--set", "workers=0", "--set", f"eval_every={EPOCHS}",
    ]  # fmt: skip


def trained(policy: str, data: Path, out: Path) -> tuple[list[int], int, float]:
    """What is resident after each epoch, the most that ever was, and pictures a second."""
    said: list[str] = []
    with child(COMMAND, policy, *settings(data, out)) as process:
        resident, most, speeds = zip(*epochs_of(process, said), strict=True)
    if process.returncode:
        raise SystemExit("".join(said))
    return list(resident), max(most), statistics.median(speeds[1:])


def forward(policy: str) -> float:
    """Seconds of a picture."""
    with child(FORWARD, policy) as process:
        answer, said = process.communicate()
    if process.returncode:
        raise SystemExit(said)
    return float(answer)


def main() -> None:
    training = {policy: [] for policy in POLICIES}
    forwards = {policy: [] for policy in POLICIES}
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder, "data"))
        for i in range(ROUNDS):
            for policy in POLICIES:
                training[policy].append(trained(policy, Path(folder, "data"), Path(folder, f"{policy} {i}")))
                forwards[policy].append(forward(policy))
    results = []
    for policy in POLICIES:
        resident, most, _ = training[policy][-1]
        faster = [mine[2] / base[2] for mine, base in zip(training[policy], training["default"], strict=True)]
        quicker = [base / mine for mine, base in zip(forwards[policy], forwards["default"], strict=True)]
        results.append(
            {
                "policy": policy,
                "resident_MB": resident,
                "after_15_by_after_3": round(resident[-1] / resident[2], 3),
                "peak_MB": most,
                "pictures_per_second": round(statistics.median(run[2] for run in training[policy]), 2),
                "training_speed_by_default": round(statistics.median(faster), 3),
                "forward_s": round(statistics.median(forwards[policy]), 3),
                "forward_speed_by_default": round(statistics.median(quicker), 3),
            }
        )
    shown = (1, 3, 9, EPOCHS)
    names = ("15 / 3", "peak", "pictures/s", "by default", "forward s", "by default")
    epochs = "".join(f"{f'epoch {i}':>9}" for i in shown)
    print(f"{'policy':<12}{epochs}" + "".join(f"{name:>12}" for name in names))
    for row in results:
        kept = "".join(f"{row['resident_MB'][i - 1]:>9,}" for i in shown)
        figures = [value for name, value in row.items() if name not in ("policy", "resident_MB")]
        print(f"{row['policy']:<12}{kept}" + "".join(f"{value:>12,}" for value in figures))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
