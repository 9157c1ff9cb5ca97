"""`detr explain`: a picture's way through the model."""

from pathlib import Path
from typing import Annotated

import typer

from detrcli.cli.inputs import the_picture
from detrcli.cli.options import THRESHOLD, Debug, Device, Json, MaxSize, Model, Overwrite, Sha256, Size, Weights

BEST = 5  # detections that are shown at the end


def explain(
    image: Annotated[Path, typer.Argument(help="A picture.")],
    weights: Weights = "detr-r50",
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page too: what each step makes of the picture.")
    ] = None,
    size: Size = None,
    max_size: MaxSize = None,
    model: Model = None,
    sha256: Sha256 = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Walk a picture through the model, step by step."""
    from detrcli.api.inspecting import walk
    from detrcli.cli.console import print_json, print_table
    from detrcli.cli.loading import load_detector
    from detrcli.cli.outputs import check_ending, check_free
    from detrcli.system.text import escape_controls

    the_picture(image)
    if html is not None:
        check_ending(html, ".html", ".htm")
        check_free(html, overwrite=overwrite)
        html.parent.mkdir(parents=True, exist_ok=True)  # what cannot be written shall not cost a run
    detector = load_detector(weights, model=model, sha256=sha256, size=size, max_size=max_size, device=device)
    way = walk(image, detector)
    found, own = way.found, way.own_shapes
    if html is not None:
        way.page(html)

    if json:
        print_json(
            {
                "schema": "detr.explain/1",
                "file": str(image),
                "weights": weights,
                "width": way.width,
                "height": way.height,
                "steps": [
                    {
                        "step": stop.name,
                        "shape": list(stop.shape),
                        "shape_at_own_size": None if own is None else list(own[i]),
                        "what": stop.what,
                    }
                    for i, stop in enumerate(way.stops)
                ],
                "best": [
                    {
                        "query": int(found.queries[i]),
                        "category_id": int(found.category_ids[i]),
                        "label": str(found.labels[i]),
                        "score": round(float(found.scores[i]), 6),
                        "box": [round(value, 3) for value in found.boxes[i].tolist()],
                    }
                    for i in range(min(BEST, len(found)))
                ],
            }
        )
        return
    resized = (way.input_height, way.input_width) != (way.height, way.width)
    print(
        escape_controls(
            f"{image}: {way.width} x {way.height} pixels, resized to {way.input_width} x {way.input_height} "
            f"for {weights}"
            if resized
            else f"{image}: {way.width} x {way.height} pixels, as {weights} takes it"
        )
    )
    print()
    if resized:
        print_table(
            ("step", "shape", "without resizing", "what it is"),
            [
                (stop.name, _shape(stop.shape), "" if own is None else _shape(own[i]), stop.what)
                for i, stop in enumerate(way.stops)
            ],
        )
    else:
        print_table(("step", "shape", "what it is"), [(stop.name, _shape(stop.shape), stop.what) for stop in way.stops])
    print()
    print_table(
        ("query", "label", "score", "x0", "y0", "x1", "y1"),
        [
            (
                int(found.queries[i]),
                str(found.labels[i]),
                f"{found.scores[i]:.3f}",
                *(f"{value:.1f}" for value in found.boxes[i].tolist()),
            )
            for i in range(min(BEST, len(found)))
        ],
    )
    sure = int((found.scores >= THRESHOLD).sum())
    print(
        f"\nBoxes are in pixels from the top left. A score of {THRESHOLD} or more counts as found in `detr predict`: "
        f"{sure} of {len(found)} predictions."
    )


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
