"""`detr report`: why a model fails on somebody's data, and what to mend."""

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
    Sha256,
    Size,
    SkipBad,
    known_weights,
)
from detrcli.errors import UsageError

if TYPE_CHECKING:
    from detrcli.inference.detector import Detector

SUBJECT = "A run, or data as in `detr eval`."


def _known(value: str | None) -> str | None:
    return None if value is None else known_weights(value)


def report(
    subject: Annotated[Path, typer.Argument(metavar="RUN|DATA", help=SUBJECT)],
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="W",
            callback=_known,
            help="As in `detr predict`. [those of the run; detr-r50]",
        ),
    ] = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="train, val or test.")] = "val",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the page, else report, numbered.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(metavar="P", min=0, max=1, help="Score of a detection. [that of the best F1]"),
    ] = None,
    folds: Annotated[
        int,
        typer.Option(
            metavar="K", min=0, help="With --split train: suspect by K models that have not seen the labels."
        ),
    ] = 0,
    images: Annotated[
        int, typer.Option(metavar="N", min=1, help="At most so many pictures in the page, the worst first.")
    ] = 1000,
    size: Size = None,
    max_size: MaxSize = None,
    exif: Exif = "auto",
    skip_bad: SkipBad = False,
    pair_by_id: PairById = False,
    model: Model = None,
    sha256: Sha256 = None,
    device: Device = "auto",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show why a model fails on your data, and which annotations to mend."""
    from detrcli.cli.outputs import check_free, check_not_in_data

    if out is not None:
        check_free(out, folder=True)
        check_not_in_data(out, subject)
    from detrcli.api.reporting import report as report_on
    from detrcli.cli.console import Status, counting, print_json, warn
    from detrcli.cli.failure_report import show_report
    from detrcli.cli.sources import tell_class_mapping
    from detrcli.system.files import next_free_folder
    from detrcli.training.run_folder import is_run

    of_run = is_run(subject)
    if not of_run and str(subject) != "shapes" and not subject.exists():
        raise UsageError(f"{subject}: there is no such run or data.")

    def detector() -> "Detector":
        from detrcli.cli.loading import load_detector

        named = weights or (str(subject) if of_run else "detr-r50")
        return load_detector(named, model=model, sha256=sha256, size=size, max_size=max_size, device=device)

    found = report_on(
        subject,
        detector,
        split=split,
        threshold=threshold,
        folds=folds,
        exif=None if of_run and exif == "auto" else exif,
        skip_bad=None if of_run and not skip_bad else skip_bad,
        pair_by_id=pair_by_id,
        note=warn,
        mapped=tell_class_mapping,
        watch=counting("looking at pictures"),
    )
    folder = next_free_folder("report") if out is None else out
    with Status("writing the page"):
        page = found.page(folder, images=images)
    if json:
        print_json({**found.document, "page": str(page)})
    else:
        show_report(found)
    warn(f"the page: {page}")
