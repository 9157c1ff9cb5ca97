"""How time and memory grow, with the law that is expected beside what was measured.

    OMP_WAIT_POLICY=PASSIVE python examples/scaling.py [scaling.png]

DETR R50 of random weights: time against the picture's shorter side, the batch and, for matching and loss, queries and
objects; the most memory of a process against the side. The laws are floating-point operations, counted by torch on
the plain model, for networks, and proportion for the rest; each goes through its curve's last point. Some minutes.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from timing import random_weights
from torch.utils.flop_counter import FlopCounterMode
from training_speed import examples, ours

from detrcli.inference.engines import FastEngine
from detrcli.render.draw import save
from detrcli.render.plot import Panel, plot
from detrcli.structures import Batch, Group, Output, Target
from detrcli.system.allocator import keep_large_blocks
from detrcli.variants import preset, variant_of

Curve = Sequence[tuple[float, float]]
SIDES, TRAINED_SIDES = (200, 400, 600, 800, 1000, 1200), (160, 240, 320, 400, 480)
BATCHES, QUERIES, OBJECTS = (1, 2, 4, 8), (50, 100, 200, 400, 800), (1, 5, 10, 20, 40, 80)
ROUNDS = 3
CPU = torch.device("cpu")


def wide(side: int) -> int:
    """The longer side of a picture of 4 : 3."""
    return side * 4 // 3


def milliseconds(work: Callable[[], Any]) -> float:
    work()
    spent = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return 1000 * statistics.median(spent)


def operations(side: int, batch: int = 1) -> float:
    """Of the plain network."""
    with torch.device("meta"):
        config = preset("detr-r50")
        model = variant_of(config).build(config).eval()
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            model(Batch(torch.empty(batch, 3, side, wide(side)), None))
    return float(counter.get_total_flops())


def with_law(curve: Curve, law: Callable[[float], float]) -> dict[str, Curve]:
    """What was measured, and a law through its last point."""
    x_last, y_last = curve[-1]
    return {"measured": curve, "expected": [(x, y_last * law(x) / law(x_last)) for x, _ in curve]}


def loss_time(images: int, queries: int, objects: int) -> float:
    config = replace(preset("detr-r50"), queries=queries)
    loss = variant_of(config).make_loss(config, variant_of(config).loss)
    chance = torch.Generator().manual_seed(0)
    logits = torch.randn(6, images, queries, 92, generator=chance, requires_grad=True)
    where = torch.randn(6, images, queries, 4, generator=chance, requires_grad=True)
    targets = [
        Target(
            torch.randint(0, 91, (objects,), generator=chance),
            torch.rand(objects, 4, generator=chance) * 0.4 + 0.3,
        )
        for _ in range(images)
    ]
    return milliseconds(
        lambda: loss.compute_loss(Output(Group("decoder", logits, where.sigmoid())), targets).total.backward()
    )


PEAK = """
import sys; sys.path.insert(0, {folder!r})
from scaling import *
import resource
keep_large_blocks()
{work}
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
PREDICTS = """
engine = FastEngine(random_weights().model(), CPU)
for _ in range(2): engine(Batch(torch.randn(1, 3, {side}, wide({side})), None))
"""
TRAINS = """
step = ours("detr-r50", examples(2, {side}, wide({side})))
for _ in range(2): step()
"""


def gigabytes(work: str) -> float:
    """The most memory of a process that does this."""
    code = PEAK.format(folder=str(Path(__file__).parent), work=work)
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return int(done.stdout.split()[-1]) / 2**20


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "scaling.png")
    keep_large_blocks()
    engine = FastEngine(random_weights().model(), CPU)

    def network(side: int, batch: int = 1) -> float:
        pixels = Batch(torch.randn(batch, 3, side, wide(side)), None)
        return milliseconds(lambda: engine(pixels))

    sizes = [(side, network(side)) for side in SIDES]
    batches = [(batch, network(400, batch)) for batch in BATCHES]
    steps = [(side, milliseconds(ours("detr-r50", examples(2, side, wide(side))))) for side in TRAINED_SIDES]
    queries = [(count, loss_time(8, count, 20)) for count in QUERIES]
    objects = [(count, loss_time(8, 100, count)) for count in OBJECTS]
    panels = [
        Panel("one picture, ms", "shorter side", with_law(sizes, lambda x: operations(int(x))), least=0),
        Panel("batch of 400 x 533, ms", "pictures", with_law(batches, lambda x: x), least=0),
        Panel(
            "training step, two pictures, ms",
            "shorter side",
            with_law(steps, lambda x: operations(int(x))),
            least=0,
        ),
        Panel("matching and loss, 8 x 20, ms", "queries", with_law(queries, lambda x: x), least=0),
        Panel("matching and loss, 100 queries, ms", "objects a picture", {"measured": objects}, least=0),
        Panel(
            "memory, GB",
            "shorter side",
            {
                "one picture": [(side, gigabytes(PREDICTS.format(side=side))) for side in SIDES[::2]],
                "training step": [(side, gigabytes(TRAINS.format(side=side))) for side in TRAINED_SIDES[::2]],
            },
            least=0,
        ),
    ]
    save(plot(panels), out)
    for panel in panels:
        print(panel.title)
        for name, curve in panel.curves.items():
            print(f"  {name:<14} " + "  ".join(f"{x:g}: {y:.4g}" for x, y in curve))
    print(json.dumps({panel.title: dict(panel.curves) for panel in panels}))


if __name__ == "__main__":
    main()
