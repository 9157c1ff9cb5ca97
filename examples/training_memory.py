"""Compare memory policies: memory and speed of training on images of many sizes, and speed of a detr-r50.

    python examples/training_memory.py

The policies are the defaults of glibc and oneDNN; returning large blocks to the kernel; and the policy of the commands
(detrcli/system/allocator.py). Each runs in its own processes, alternating, on one thread. A training of detr-tiny on
60 images with sides from 96 to 320 records resident memory after each epoch and the peak; forward passes are those of
a detr-r50 with random weights on four sizes. Speeds are compared within a round. Requires Linux with glibc. Expected
of the commands' policy: after epoch 15 at most 1.1 times the memory of epoch 3, and training and forward at least as
fast as with the defaults. Takes about ten minutes.
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
from timing import show, write_coco

from detrcli.system import allocator

IMAGES, EPOCHS, ROUNDS = 60, 15, 2

# Options of mallopt, capacity of oneDNN's primitive cache, and whether memory is returned after each epoch.
POLICIES = {
    "default": ({}, "1024", False),
    "returned": ({"mmap_threshold": (-3, 1 << 20)}, "1024", False),
    "chosen": (dict(allocator.OPTIONS), allocator.PRIMITIVES, True),
}

# The command line with another policy.
COMMAND = """
import json, sys
from detrcli.system import allocator
allocator.OPTIONS, allocator.PRIMITIVES, trims = json.loads(sys.argv[1])
if not trims:
    from detrcli.training import loop
    loop.release_free_memory = lambda: None
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
    """Write a COCO folder of noise images in random sizes with three boxes each."""
    rng = np.random.default_rng(0)
    for split, count in (("train", IMAGES), ("val", 4)):
        (folder / split).mkdir(parents=True)
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
        write_coco(folder, split, images, annotations, [{"id": 1, "name": "a"}])


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


def epochs_of(process: subprocess.Popen[str], output: list[str]) -> Iterator[tuple[int, int, float]]:
    """After each epoch of a training, yield resident memory, peak memory in MB, and images per second."""
    for line in process.stderr:
        output.append(line)
        if epoch := re.match(r"epoch \d+  .* ([\d.]+) images/s$", line):
            yield megabytes(process.pid, "VmRSS"), megabytes(process.pid, "VmHWM"), float(epoch[1])


def settings(data: Path, out: Path) -> list[object]:
    """Return the arguments of the measured training."""
    return [
        "train", data, "--model", "detr-tiny", "--size", 160, "--batch-size", 4, "--epochs", EPOCHS,
        "--device", "cpu", "--out", out, "--set", "workers=0", "--set", f"eval_every={EPOCHS}",
    ]  # fmt: skip


def trained(policy: str, data: Path, out: Path) -> tuple[list[int], int, float]:
    """Return resident memory after each epoch, peak memory, and images per second."""
    output: list[str] = []
    with child(COMMAND, policy, *settings(data, out)) as process:
        resident, peaks, speeds = zip(*epochs_of(process, output), strict=True)
    if process.returncode:
        raise SystemExit("".join(output))
    return list(resident), max(peaks), statistics.median(speeds[1:])


def forward(policy: str) -> float:
    """Return the seconds per image."""
    with child(FORWARD, policy) as process:
        seconds, errors = process.communicate()
    if process.returncode:
        raise SystemExit(errors)
    return float(seconds)


def main() -> None:
    training = {policy: [] for policy in POLICIES}
    forwards = {policy: [] for policy in POLICIES}
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder, "data"))
        for i in range(ROUNDS):
            for policy in POLICIES:
                training[policy].append(trained(policy, Path(folder, "data"), Path(folder, f"{policy} {i}")))
                forwards[policy].append(forward(policy))
    rows = []
    for policy in POLICIES:
        resident, peak, _ = training[policy][-1]
        faster = [mine[2] / base[2] for mine, base in zip(training[policy], training["default"], strict=True)]
        quicker = [base / mine for mine, base in zip(forwards[policy], forwards["default"], strict=True)]
        rows.append(
            {
                "policy": policy,
                **{f"MB, epoch {epoch}": resident[epoch - 1] for epoch in (1, 3, 9, EPOCHS)},
                "15 / 3": round(resident[-1] / resident[2], 3),
                "peak MB": peak,
                "images/s": round(statistics.median(run[2] for run in training[policy]), 2),
                "training speedup": round(statistics.median(faster), 3),
                "forward, s": round(statistics.median(forwards[policy]), 3),
                "forward speedup": round(statistics.median(quicker), 3),
            }
        )
    show(rows)


if __name__ == "__main__":
    main()
