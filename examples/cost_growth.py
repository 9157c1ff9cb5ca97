"""Plot how time and memory grow with image size, batch size, queries and objects.

    pip install . && OMP_WAIT_POLICY=PASSIVE python examples/cost_growth.py [FIGURE.png]

DETR R50 with random weights in float32: inference with the fast engine, training steps, matching and loss. Each curve
is shown with the expected law through the last measured point: for time the operations counted by torch (convolutions
grow with the pixels, the encoder's attention with their square), for memory what the pixels add, and for the matching
the size of the cost matrix. The last panel shows AP and time per image of the shapes-detr weights on `shapes` at each
--size. Peak memory is only available on Linux; elsewhere those panels are empty. Takes about four minutes.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from timing import allocator_as_it_is, random_weights, show
from torch.utils.flop_counter import FlopCounterMode
from training_speed import examples, ours

from detrcli.api.evaluating import evaluate
from detrcli.architectures import preset
from detrcli.checkpoints.load import load_checkpoint
from detrcli.inference.detector import Detector
from detrcli.inference.engines import FastEngine
from detrcli.render.plot import Panel, plot
from detrcli.structures import Batch, Output, QueryGroup, Target
from detrcli.system.allocator import keep_large_blocks

CPU = torch.device("cpu")
SIZES, BATCHES = (224, 320, 448, 640, 800, 1024), (1, 2, 4, 8)
SHAPES_SIZES = (64, 96, 128, 160, 192)
QUERIES, OBJECTS = (25, 100, 300, 600, 900), (1, 5, 10, 25, 50, 100)
SIZE = 320  # in panels where another quantity grows
ROUNDS = 5


def milliseconds(way: Callable[[], Any], rounds: int = ROUNDS) -> float:
    spent = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        way()
        spent.append(time.perf_counter() - start)
    return 1000 * statistics.median(spent[1:])


def peak_megabytes(way: Callable[[], Any]) -> float:
    """Return the peak memory of the process during a call, with no memory kept from before."""
    allocator_as_it_is()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak
        way()
        status = Path("/proc/self/status").read_text()
    except OSError:
        return float("nan")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def random_batch(count: int, size: int) -> Batch:
    images = torch.randn(count, 3, size, size).contiguous(memory_format=torch.channels_last)
    return Batch(images, None)


def operations(model: torch.nn.Module, batch: Batch) -> float:
    """Count the multiplications and additions of a forward pass."""
    model.requires_grad_(False)  # the counter's hooks fail on parameters with gradients
    with FlopCounterMode(display=False) as counter:
        model(batch)
    return float(counter.get_total_flops())


def panel(title: str, across: str, measured: Sequence[tuple[float, float]], law: Sequence[float]) -> Panel:
    """Return a panel with the measured curve, and the law scaled to its last point."""
    scale = measured[-1][1] / law[-1]
    expected = [(x, scale * value) for (x, _), value in zip(measured, law, strict=True)]
    return Panel(title, across, {"measured": measured, "expected": expected}, 0)


def linear(measured: Sequence[tuple[float, float]]) -> list[float]:
    """Return the values of the line through the first and the last point."""
    (x0, y0), (x1, y1) = measured[0], measured[-1]
    return [y0 + (y1 - y0) * (x - x0) / (x1 - x0) for x, _ in measured]


def memory() -> list[Panel]:
    engine = FastEngine(random_weights().model().eval(), CPU, "fp32")
    predicting = [(size**2 / 1e6, peak_megabytes(lambda size=size: engine(random_batch(1, size)))) for size in SIZES]
    training = [(2 * size**2 / 1e6, peak_megabytes(ours("detr-r50", examples(2, size, size)))) for size in SIZES[:5]]
    return [
        panel("inference, peak memory, MB", "megapixels", predicting, linear(predicting)),
        panel("training step, peak memory, MB", "megapixels", training, linear(training)),
    ]


def inference() -> list[Panel]:
    model = random_weights().model().eval()
    engine = FastEngine(model, CPU, "fp32")
    by_size = [(size, milliseconds(lambda size=size: engine(random_batch(1, size)))) for size in SIZES]
    by_batch = [(count, milliseconds(lambda count=count: engine(random_batch(count, SIZE)))) for count in BATCHES]
    by_queries, law = [], []
    architecture, config = preset("detr-r50")
    for queries in QUERIES:
        model_with_queries = architecture.build(replace(config, queries=queries)).eval()
        fast = FastEngine(model_with_queries, CPU, "fp32")
        batch = random_batch(1, SIZE)
        by_queries.append((queries, milliseconds(lambda fast=fast, batch=batch: fast(batch))))
        law.append(operations(model_with_queries, batch))
    law_of_size = [operations(model, random_batch(1, size)) for size in SIZES]
    law_of_batch = [operations(model, random_batch(count, SIZE)) for count in BATCHES]
    return [
        panel("inference, ms", "image size, pixels", by_size, law_of_size),
        panel(f"inference, ms, {SIZE} x {SIZE}", "batch size", by_batch, law_of_batch),
        panel(f"inference, ms, {SIZE} x {SIZE}", "queries", by_queries, law),
    ]


def training() -> list[Panel]:
    architecture, config = preset("detr-r50")
    model = architecture.build(config)
    sizes, batches = SIZES[:5], BATCHES
    by_size = [(size, milliseconds(ours("detr-r50", examples(2, size, size)), rounds=2)) for size in sizes]
    by_batch = [(n, milliseconds(ours("detr-r50", examples(n, SIZE, SIZE)), rounds=2)) for n in batches]
    law_of_size = [operations(model, random_batch(2, size)) for size in sizes]
    law_of_batch = [operations(model, random_batch(count, SIZE)) for count in batches]
    return [
        panel("training step, ms, 2 images", "image size, pixels", by_size, law_of_size),
        panel(f"training step, ms, {SIZE} x {SIZE}", "batch size", by_batch, law_of_batch),
    ]


def loss_step(images: int, queries: int, objects: int) -> Callable[[], Any]:
    """Return a function that computes matching and loss of random predictions of six layers, forward and backward."""
    architecture, config = preset("detr-r50")
    loss = architecture.make_loss(config, architecture.loss)
    logits = torch.randn(6, images, queries, 92, requires_grad=True)
    boxes = torch.randn(6, images, queries, 4, requires_grad=True)
    targets = [Target(torch.randint(0, 91, (objects,)), torch.rand(objects, 4) * 0.4 + 0.3) for _ in range(images)]

    def step() -> None:
        logits.grad = boxes.grad = None
        output = Output(QueryGroup("decoder", logits, boxes.sigmoid()))
        loss.compute_loss(output, targets).total.backward()

    return step


def matching() -> list[Panel]:
    by_objects = [(n, milliseconds(loss_step(8, 100, n))) for n in OBJECTS]
    by_queries = [(n, milliseconds(loss_step(8, n, 20))) for n in QUERIES]
    fixed, slope = by_objects[0][1], (by_objects[-1][1] - by_objects[0][1]) / OBJECTS[-1]
    return [
        panel("matching and loss, ms, 8 images", "objects per image", by_objects, [fixed + slope * n for n in OBJECTS]),
        panel("matching and loss, ms, 20 objects", "queries", by_queries, [float(n) for n in QUERIES]),
    ]


def average_precision() -> Panel:
    """Plot AP against milliseconds per image for several values of --size."""
    points = []
    for size in SHAPES_SIZES:
        result = evaluate("shapes", Detector(load_checkpoint("shapes-detr").resized(size), "cpu"))
        assert result.run is not None
        points.append((1000 * sum(result.run.seconds_per_image.values()), result.metrics["AP"]))
        print(f"shapes at --size {size}: AP {points[-1][1]:.3f} in {points[-1][0]:.1f} ms per image")
    return Panel("AP, --size 64, 96, 128, 160, 192", "ms per image", {"shapes": points}, 0)


def main() -> None:
    torch.manual_seed(0)
    memory_panels = memory()  # before memory is kept
    keep_large_blocks()
    panels = [*memory_panels, *inference(), *training(), *matching()]
    tradeoff = average_precision()
    if len(sys.argv) > 1:
        plot([*panels, tradeoff]).save(sys.argv[1], optimize=True)
    show(
        [
            {"what": panel.title, "by": panel.x_label, "at": x, "measured": round(y, 1), "law": round(law, 1)}
            for panel in panels
            for (x, y), (_, law) in zip(*panel.curves.values(), strict=True)
        ]
    )


if __name__ == "__main__":
    main()
