"""`detr report`: why a model fails on somebody's data, and what to fix."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detrcli.cli.options import (
    Debug,
    Device,
    Exif,
    Json,
    MaxSize,
    Model,
    PairById,
    SeveralWeights,
    Sha256,
    Size,
    SkipBad,
)
from detrcli.errors import UsageError

if TYPE_CHECKING:
    from detrcli.inference.detector import Detector

SUBJECT = "A run, or data as in `detr eval`."


def report(
    subjects: Annotated[list[Path], typer.Argument(metavar="RUN|DATA...", help=SUBJECT)],
    weights: SeveralWeights = [],  # noqa: B006  # typer copies it; those of the run, or detr-r50
    split: Annotated[str, typer.Option(metavar="NAME", help="train, val or test.")] = "val",
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the page, else report, numbered.")] = None,
    threshold: Annotated[
        float | None, typer.Option(metavar="P", min=0, max=1, help="Score of a detection. [that of the best F1]")
    ] = None,
    folds: Annotated[
        int,
        typer.Option(metavar="K", min=0, help="With --split train: suspect by K models that have not seen the labels."),
    ] = 0,
    images: Annotated[
        int, typer.Option(metavar="N", min=1, help="At most so many pictures in the page, the worst first.")
    ] = 1000,
    size: Size = None,
    max_size: MaxSize = None,
    exif: Exif = "auto",
    skip_bad: SkipBad = False,
    match_classes_by_id: PairById = False,
    model: Model = None,
    sha256: Sha256 = None,
    device: Device = "auto",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show why a model fails on your data, and what to fix."""
    from detrcli.cli.outputs import check_free, check_not_in_data

    if out is not None:
        check_free(out, folder=True)
        for subject in subjects:
            check_not_in_data(out, subject)
    from detrcli.api.reporting import compare
    from detrcli.api.reporting import report as report_on
    from detrcli.cli.console import Status, counting, print_json, warn
    from detrcli.cli.failure_report import show_comparison, show_report
    from detrcli.cli.sources import tell_class_mapping
    from detrcli.system.files import next_free_folder
    from detrcli.training.run_folder import is_run

    first, of_run = subjects[0], is_run(subjects[0])
    if len(subjects) > 1 and (weights or not all(map(is_run, subjects))):
        raise UsageError("Several RUNs are compared on the first one's data; weights by --weights, on one DATA.")
    for subject in subjects:
        if str(subject) != "shapes" and not subject.exists():
            raise UsageError(f"{subject}: there is no such run or data.")

    def detector(named: str) -> "Detector":
        from detrcli.cli.loading import load_detector

        return load_detector(named, model=model, sha256=sha256, size=size, max_size=max_size, device=device)

    named = weights or (list(map(str, subjects)) if of_run else ["detr-r50"])
    found = [
        report_on(
            first,
            partial(detector, one),
            split=split,
            threshold=threshold,
            folds=folds,
            exif=None if of_run and exif == "auto" else exif,
            skip_bad=None if of_run and not skip_bad else skip_bad,
            match_classes_by_id=match_classes_by_id,
            note=warn,
            mapped=tell_class_mapping,
            watch=counting("looking at pictures"),
        )
        for one in named
    ]
    compared = compare(list(zip(named, found, strict=True))) if len(found) > 1 else None
    folder = next_free_folder("report") if out is None else out
    with Status("writing the page"):
        page = (compared or found[0]).page(folder, images=images)
    if json:
        print_json({**(compared or found[0]).document, "page": str(page)})
    elif compared is not None:
        show_comparison(compared)
    else:
        show_report(found[0])
    warn(f"the page: {page}")
