"""`detr bench`: how fast weights are on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from detrcli.cli.inputs import the_picture
from detrcli.cli.options import Debug, Device, Json, MaxSize, Model, Sha256, Size, known_weights

BAR = 40  # characters


def bench(
    weights: Annotated[
        str, typer.Argument(metavar="[WEIGHTS]", callback=known_weights, help="As --weights elsewhere.")
    ] = "detr-r50",
    image: Annotated[Path | None, typer.Option(metavar="FILE", help="A picture. [one of 640 x 480 is made]")] = None,
    rounds: Annotated[int, typer.Option(metavar="N", min=1, help="How often each is timed; the median counts.")] = 5,
    size: Size = None,
    max_size: MaxSize = None,
    model: Model = None,
    sha256: Sha256 = None,
    device: Device = "auto",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Time engines and precisions side by side."""
    from detrcli.api.benchmarking import bench as time_engines
    from detrcli.cli.console import DownloadStatus, print_json, print_table, warn

    if image is not None:
        the_picture(image)
    with DownloadStatus() as progress:
        found = time_engines(
            weights,
            image,
            rounds=rounds,
            device=device,
            size=size,
            max_size=max_size,
            model=model,
            sha256=sha256,
            progress=progress,
            note=warn,
        )
    for engine, why in found.left_out.items():
        warn(f"{engine} is left out: {why}")
    plain = found.speeds[0].total
    if json:
        print_json(
            {
                "schema": "detr.bench/1",
                "weights": weights,
                "picture": list(found.size),
                "engines": [
                    {
                        "engine": one.engine,
                        "precision": one.precision,
                        "seconds": {stage: round(spent, 6) for stage, spent in one.seconds.items()},
                        "times_plain": round(plain / one.total, 3),
                        "difference": one.difference,
                    }
                    for one in found.speeds
                ],
                "bottleneck": found.bottleneck,
            }
        )
        return
    print_table(
        ("engine", "precision", "ms a picture", "pictures/s", "times plain", "differs by"),
        [
            (
                one.engine,
                one.precision,
                round(1000 * one.total, 1),
                round(1 / one.total, 1),
                round(plain / one.total, 2),
                f"{one.difference:.1g}",
            )
            for one in found.speeds
        ],
    )
    print(f"\n{found.default.engine}, {found.default.precision}, from file to detections:")
    for stage, spent in found.default.seconds.items():
        share = spent / found.default.total
        print(f"{stage:<15} {'#' * round(BAR * share):<{BAR}} {1000 * spent:.1f} ms")
    print(f"\n{found.bottleneck}")
