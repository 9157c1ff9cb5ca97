"""`detr match-debug`: how the matching decided, and why."""

from pathlib import Path
from typing import Annotated

import typer

from detrcli.cli.inputs import check_folder
from detrcli.cli.options import (
    DATA,
    THRESHOLD,
    Debug,
    Device,
    Exif,
    Json,
    MaxSize,
    Model,
    Overwrite,
    Sha256,
    Size,
    SkipBad,
    ValAnn,
    ValImages,
    Weights,
)
from detrcli.errors import UsageError

WORST = 16  # what --all lists, unless told otherwise


def match_debug(
    data: Annotated[Path | None, typer.Argument(help=DATA)] = None,
    weights: Weights = "detr-r50",
    split: Annotated[str, typer.Option(metavar="NAME", help="train, val or test.")] = "val",
    val_ann: ValAnn = None,
    val_images: ValImages = None,
    image: Annotated[
        str | None, typer.Option(metavar="ID|FILE", help="Which image. [the first of the split]")
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="All images of the split: which queries are used.")
    ] = False,
    run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="A training: how steady its matching became.")
    ] = None,
    layer: Annotated[str, typer.Option(metavar="last|all|I", help="Decoder layer, from 0.")] = "last",
    threshold: Annotated[
        float, typer.Option(metavar="P", min=0, max=1, help="Score from which a query is a detection.")
    ] = THRESHOLD,
    cost_class: Annotated[
        float | None, typer.Option(metavar="X", min=0, help="Show which pairs this weight would change.")
    ] = None,
    cost_l1: Annotated[float | None, typer.Option(metavar="X", min=0, help="Likewise.")] = None,
    cost_giou: Annotated[float | None, typer.Option(metavar="X", min=0, help="Likewise.")] = None,
    worst: Annotated[
        int | None, typer.Option(metavar="N", min=1, help=f"With --all: how many are listed. [{WORST}]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The picture, else match-debug.png, numbered.")
    ] = None,
    raw: Annotated[Path | None, typer.Option(metavar="FILE.npz", help="Write the numbers as arrays.")] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page to walk through layers and queries.")
    ] = None,
    size: Size = None,
    max_size: MaxSize = None,
    exif: Exif = "auto",
    skip_bad: SkipBad = False,
    model: Model = None,
    sha256: Sha256 = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show how the matching decided, and why."""
    _check_together(
        data=any(given is not None for given in (data, val_ann, val_images)),
        run=run is not None,
        all_=all_,
        of_image={
            "--image": image is not None,
            "--layer": layer != "last",
            "--cost-class": cost_class is not None,
            "--cost-l1": cost_l1 is not None,
            "--cost-giou": cost_giou is not None,
            "--raw": raw is not None,
            "--html": html is not None,
        },
        worst=worst is not None,
    )
    from detrcli.cli.outputs import PICTURES, check_ending, check_free, check_not_in_data

    for path, endings in ((out, PICTURES), (raw, (".npz",)), (html, (".html", ".htm"))):
        if path is None:
            continue
        check_ending(path, *endings)
        check_free(path, overwrite=overwrite)
        check_not_in_data(path, data, val_images)
        path.parent.mkdir(parents=True, exist_ok=True)  # what cannot be written shall not cost a run
    if run is not None:
        from detrcli.cli.match_debug.run import show_run

        check_folder("--run", run)
        show_run(run, out, json=json)
        return

    from detrcli.cli.loading import load_detector
    from detrcli.cli.sources import open_source, tell_pairing, tell_problems
    from detrcli.cli.truths import InspectionSession, trained_with
    from detrcli.data.examine import headers_only
    from detrcli.evaluation.class_mapping import pair
    from detrcli.evaluation.truth import classes_of

    source = open_source(data, {"val": (val_ann, val_images)})
    examined = headers_only(source, [split], exif, leave_out_bad=skip_bad)
    tell_problems(examined)
    matching, loss = trained_with(weights)
    detector = load_detector(
        weights,
        model=model,
        sha256=sha256,
        size=size,
        max_size=max_size,
        device=device,
    )
    checked = examined.splits[split]
    pairing = pair(detector.classes, classes_of(checked))
    tell_pairing(pairing)
    truths = InspectionSession.of(detector, checked, pairing, skip_bad=skip_bad)
    if all_:
        from detrcli.cli.match_debug.data import show_data

        show_data(truths, matching, loss, threshold, worst or WORST, out, json=json)
    else:
        from detrcli.cli.match_debug.image import show_image
        from detrcli.inspection.matching import reweighted

        show_image(
            truths,
            truths.find(image),
            layer,
            threshold,
            (matching, reweighted(matching, cost_class, cost_l1, cost_giou)),
            loss,
            {"picture": out, "raw": raw, "page": html},
            json=json,
        )


def _check_together(*, data: bool, run: bool, all_: bool, of_image: dict[str, bool], worst: bool) -> None:
    """What is asked of one image, of a data set and of a run are different things."""
    if all_ and run:
        raise UsageError("--all looks at a data set and --run at a training: give one of them.")
    if not data and not run:
        raise UsageError("Give DATA, or --val-ann and --val-images, or --run RUN.")
    what = "--all" if all_ else "--run" if run else None
    for option, given in of_image.items():
        if what and given:
            raise UsageError(f"{option} is for one image; {what} is given.")
    if worst and not all_:
        raise UsageError("--worst is for --all.")
