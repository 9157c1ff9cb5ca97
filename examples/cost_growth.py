"""How time and memory grow with the size of the picture, the batch, the queries and the objects, as one figure.

    pip install . && OMP_WAIT_POLICY=PASSIVE python examples/cost_growth.py [FIGURE.png]

DETR R50 of random weights, float32: inference with the fast engine, training steps, and matching with its loss. Each
curve stands beside the expected law, drawn through the last measured point: for time the operations of the network by
torch's own count (convolutions grow with the pixels, the encoder's attention with their square), for memory what the
pixels add, and for the matching the size of the cost matrix. The last panel is what the shipped weights reach on
`shapes` at each --size, and how long a picture takes. Only Linux tells the most memory between two moments;
elsewhere those panels are empty. It runs for some four minutes.
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
from detrcli.architectures import architecture_of, preset
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
SIZE = 320  # where something else grows
ROUNDS = 5


def milliseconds(way: Callable[[], Any], rounds: int = ROUNDS) -> float:
    spent = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        way()
        spent.append(time.perf_counter() - began)
    return 1000 * statistics.median(spent[1:])


def most_megabytes(way: Callable[[], Any]) -> float:
    """The most that the process holds while it is done, with nothing kept from before."""
    allocator_as_it_is()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # begin anew
        way()
        status = Path("/proc/self/status").read_text()
    except OSError:
        return float("nan")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def pictures(number: int, size: int) -> Batch:
    images = torch.randn(number, 3, size, size).contiguous(memory_format=torch.channels_last)
    return Batch(images, None)


def operations(model: torch.nn.Module, batch: Batch) -> float:
    """Multiplications and additions of a forward pass."""
    model.requires_grad_(False)  # the counter's hooks stumble over parameters that have gradients
    with FlopCounterMode(display=False) as counted:
        model(batch)
    return float(counted.get_total_flops())


def beside(measured: Sequence[tuple[float, float]], law: Sequence[float]) -> dict[str, Any]:
    """A curve, and the law through its last point."""
    (_, last), most = measured[-1], law[-1]
    expected = [(x, last * value / most) for (x, _), value in zip(measured, law, strict=True)]
    return {"measured": measured, "expected": expected}


def straight(measured: Sequence[tuple[float, float]]) -> list[float]:
    """The line through the first and the last point."""
    (x0, y0), (x1, y1) = measured[0], measured[-1]
    return [y0 + (y1 - y0) * (x - x0) / (x1 - x0) for x, _ in measured]


def memory() -> list[Panel]:
    engine = FastEngine(random_weights().model().eval(), CPU, "fp32")
    predicting = [(size**2 / 1e6, most_megabytes(lambda size=size: engine(pictures(1, size)))) for size in SIZES]
    training = [(2 * size**2 / 1e6, most_megabytes(ours("detr-r50", examples(2, size, size)))) for size in SIZES[:5]]
    return [
        Panel("inference, most memory, MB", "megapixels", beside(predicting, straight(predicting)), 0),
        Panel("training step, most memory, MB", "megapixels", beside(training, straight(training)), 0),
    ]


def inference() -> list[Panel]:
    model = random_weights().model().eval()
    engine = FastEngine(model, CPU, "fp32")
    by_size = [(size, milliseconds(lambda size=size: engine(pictures(1, size)))) for size in SIZES]
    by_batch = [(many, milliseconds(lambda many=many: engine(pictures(many, SIZE)))) for many in BATCHES]
    by_queries, law = [], []
    for queries in QUERIES:
        config = replace(preset("detr-r50"), queries=queries)
        wider = architecture_of(config).build(config).eval()
        other = FastEngine(wider, CPU, "fp32")
        batch = pictures(1, SIZE)
        by_queries.append((queries, milliseconds(lambda other=other, batch=batch: other(batch))))
        law.append(operations(wider, batch))
    return [
        Panel(
            "inference, ms",
            "edge of the picture, pixels",
            beside(by_size, [operations(model, pictures(1, s)) for s in SIZES]),
            0,
        ),
        Panel(
            f"inference, ms, {SIZE} x {SIZE}",
            "pictures in a batch",
            beside(by_batch, [operations(model, pictures(n, SIZE)) for n in BATCHES]),
            0,
        ),
        Panel(f"inference, ms, {SIZE} x {SIZE}", "queries", beside(by_queries, law), 0),
    ]


def training() -> list[Panel]:
    config = preset("detr-r50")
    model = architecture_of(config).build(config)
    sizes, batches = SIZES[:5], BATCHES
    by_size = [(size, milliseconds(ours("detr-r50", examples(2, size, size)), rounds=2)) for size in sizes]
    by_batch = [(many, milliseconds(ours("detr-r50", examples(many, SIZE, SIZE)), rounds=2)) for many in batches]
    return [
        Panel(
            "training step, ms, 2 pictures",
            "edge of the picture, pixels",
            beside(by_size, [operations(model, pictures(2, s)) for s in sizes]),
            0,
        ),
        Panel(
            f"training step, ms, {SIZE} x {SIZE}",
            "pictures in a batch",
            beside(by_batch, [operations(model, pictures(n, SIZE)) for n in batches]),
            0,
        ),
    ]


def charged(pictures: int, queries: int, objects: int) -> Callable[[], Any]:
    """Matching and loss of random predictions, six layers, forward and backward."""
    config = preset("detr-r50")
    architecture = architecture_of(config)
    loss = architecture.make_loss(config, architecture.loss)
    logits = torch.randn(6, pictures, queries, 92, requires_grad=True)
    where = torch.randn(6, pictures, queries, 4, requires_grad=True)
    targets = [Target(torch.randint(0, 91, (objects,)), torch.rand(objects, 4) * 0.4 + 0.3) for _ in range(pictures)]

    def step() -> None:
        logits.grad = where.grad = None
        output = Output(QueryGroup("decoder", logits, where.sigmoid()))
        loss.compute_loss(output, targets).total.backward()

    return step


def matching() -> list[Panel]:
    by_objects = [(n, milliseconds(charged(8, 100, n))) for n in OBJECTS]
    by_queries = [(n, milliseconds(charged(8, n, 20))) for n in QUERIES]
    fixed = by_objects[0][1]
    return [
        Panel(
            "matching and loss, ms, 8 pictures",
            "objects in a picture",
            beside(by_objects, [fixed + (by_objects[-1][1] - fixed) * n / OBJECTS[-1] for n in OBJECTS]),
            0,
        ),
        Panel("matching and loss, ms, 20 objects", "queries", beside(by_queries, [float(n) for n in QUERIES]), 0),
    ]


def average_precision() -> Panel:
    """AP by milliseconds a picture, where --size is what changes."""
    points = []
    for size in SHAPES_SIZES:
        found = evaluate("shapes", Detector(load_checkpoint("shapes-detr").resized(size), "cpu"))
        assert found.run is not None
        points.append((1000 * sum(found.run.seconds_per_image.values()), found.metrics["AP"]))
        print(f"shapes at --size {size}: AP {points[-1][1]:.3f} in {points[-1][0]:.1f} ms a picture")
    return Panel("AP, --size 64, 96, 128, 160, 192", "ms a picture", {"shapes": points}, 0)


def main() -> None:
    torch.manual_seed(0)
    largest = memory()  # before anything is kept
    keep_large_blocks()
    panels = [*largest, *inference(), *training(), *matching()]
    tradeoff = average_precision()
    if len(sys.argv) > 1:
        plot([*panels, tradeoff]).save(sys.argv[1], optimize=True)
    show(
        [
            {"what": panel.title, "by": panel.across, "at": x, "measured": round(y, 1), "law": round(law, 1)}
            for panel in panels
            for (x, y), (_, law) in zip(*panel.curves.values(), strict=True)
        ]
    )


if __name__ == "__main__":
    main()
