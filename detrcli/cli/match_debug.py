"""`detr match-debug`: how the matching decided, and why."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detrcli.cli.inputs import check_folder, options_named
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
    PairById,
    Sha256,
    Size,
    SkipBad,
    ValAnn,
    ValImages,
    Weights,
)
from detrcli.errors import UsageError
from detrcli.system.text import escape_controls

if TYPE_CHECKING:
    from detrcli.inference.detector import Detector

WORST = 16  # what --all lists, unless told otherwise


def match_debug(
    data: Annotated[Path | None, typer.Argument(help=DATA)] = None,
    weights: Weights = "detr-r50",
    split: Annotated[str, typer.Option(metavar="NAME", help="train, val or test.")] = "val",
    val_ann: ValAnn = None,
    val_images: ValImages = None,
    image: Annotated[
        str | None, typer.Option(metavar="ID|FILE", help="Which image. [the worst of the first 50]")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="All images of the split: which queries are used.")] = False,
    run: Annotated[Path | None, typer.Option(metavar="RUN", help="A training: how steady its matching became.")] = None,
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
    match_classes_by_id: PairById = False,
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
    from detrcli.api.inspecting import ImageMatching, explain_matching
    from detrcli.cli.console import counting, print_json, print_table, warn
    from detrcli.cli.outputs import next_free_file
    from detrcli.cli.sources import open_source, tell_class_mapping
    from detrcli.render.draw import save
    from detrcli.system.files import write_arrays

    if run is not None:
        check_folder("--run", run)

    def detector() -> "Detector":
        from detrcli.cli.loading import load_detector

        return load_detector(weights, model=model, sha256=sha256, size=size, max_size=max_size, device=device)

    costs = {"class": cost_class, "l1": cost_l1, "giou": cost_giou}
    with options_named():
        found = explain_matching(
            None if run is not None else open_source(data, {"val": (val_ann, val_images)}),
            detector,
            image=image,
            whole_split=all_,
            run=run,
            split=split,
            layers=layer,
            threshold=threshold,
            other_weights={name: weight for name, weight in costs.items() if weight is not None},
            most=worst or WORST,
            exif=exif,
            skip_bad=skip_bad,
            match_classes_by_id=match_classes_by_id,
            note=warn,
            mapped=tell_class_mapping,
            watch=counting("matching"),
        )
    if out is None:
        out = next_free_file("match-debug-run.png" if run else "match-debug-all.png" if all_ else "match-debug.png")
        warn(f"the picture goes to {out}")
    save(found.figure, out)
    files = {"picture": str(out)}
    if isinstance(found, ImageMatching):
        if raw is not None:
            write_arrays(raw, found.arrays)
            files["raw"] = str(raw)
        if html is not None:
            found.page(html)
            files["page"] = str(html)
    if json:
        print_json({**found.document, "files": files})
        return
    for line in found.summary:
        print(escape_controls(line))
    for table in found.tables:
        print(f"\n{escape_controls(table.title)}" if table.title else "")
        print_table(table.columns, table.rows)


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
