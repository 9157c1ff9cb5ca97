"""`detr report` and `detr doctor`: why a model fails on a dataset, and what to fix."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

import detrcli
from detrcli.cli import options as opt
from detrcli.cli.console import STDERR, print_result
from detrcli.cli.outputs import check_free, check_not_in_data
from detrcli.errors import UsageError


@opt.options(*opt.LOAD[1:])
def report(
    subjects: Annotated[
        list[Path], typer.Argument(metavar="RUN|DATA...", help="Runs, or a dataset as in `detr eval`.")
    ],
    *,
    weights: opt.SeveralWeights = [],  # noqa: B006  # typer copies it; those of the run, or detr-r50
    split: opt.Split = "val",
    out: Annotated[Path | None, opt.option("DIR", "Folder for the page. [report, numbered]")] = None,
    threshold: Annotated[
        float | None, opt.option("P", "Minimum score of a detection. [that of the best F1]", min=0, max=1)
    ] = None,
    folds: Annotated[
        int,
        opt.option("K", "With --split train: train K models, to judge annotations they have not seen.", min=0),
    ] = 0,
    images: Annotated[int, opt.option("N", "Images on the page, the worst first.", min=1)] = 1000,
    exif: opt.Exif = "auto",
    skip_bad: opt.SkipBad = False,
    match_classes_by_id: opt.MatchClassesById = False,
    load: "detrcli.LoadOptions",
    json: opt.Json = False,
) -> None:
    """Show why a model fails on your data, and what to fix."""
    if out is not None:
        check_free(out, folder=True)
        for subject in subjects:
            check_not_in_data(out, detrcli.DataOptions(subject))
    for subject in subjects:
        _check_exists(subject)
    names = weights or [str(subject) for subject in subjects if detrcli.is_run(subject)]
    if len(subjects) > 1 and (weights or len(names) < len(subjects)):
        raise UsageError("Give several RUNs, which are compared on the data of the first, or one DATA with --weights.")
    names = names or [detrcli.LoadOptions().weights]
    for name in names:
        opt.check_available(name, load)
    data = detrcli.DataOptions(subjects[0], exif=exif, skip_bad=skip_bad)
    reports = {
        name: detrcli.report(
            data,
            replace(load, weights=name),
            split=split,
            threshold=threshold,
            folds=folds,
            match_classes_by_id=match_classes_by_id,
            reporter=STDERR,
        )
        for name in names
    }
    result = detrcli.compare_reports(reports) if len(reports) > 1 else next(iter(reports.values()))
    page = result.page(out, images=images)
    print_result(result, json=json, page=str(page))
    STDERR.note(f"the report: {page}")


def doctor(
    subject: Annotated[Path, typer.Argument(metavar="RUN|DATA", help="A run, or a dataset as in `detr train`.")],
    device: opt.Device = "auto",
    json: opt.Json = False,
) -> None:
    """Diagnose what is probably wrong with a run or a dataset."""
    _check_exists(subject)
    print_result(detrcli.doctor(subject, device=device, reporter=STDERR), json=json)


def _check_exists(subject: Path) -> None:
    if str(subject) != "shapes" and not os.path.exists(subject):
        raise UsageError(f"{subject}: no such run or dataset.")
