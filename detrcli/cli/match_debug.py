"""`detr match-debug`: which query is matched to which object, and why."""

from pathlib import Path
from typing import Annotated

import detrcli
from detrcli.cli import options as opt
from detrcli.cli.console import STDERR, print_result
from detrcli.cli.outputs import ARRAYS, FIGURE, PAGE, check_files, next_free_file, write_report
from detrcli.errors import UsageError
from detrcli.inference import DEFAULT_THRESHOLD

Weight = Annotated[float | None, opt.option("X", "Show which pairs would change with this cost weight.", min=0)]


@opt.options(*opt.LOAD, files=["val"])
def match_debug(
    data: "detrcli.DataOptions",
    *,
    split: opt.Split = "val",
    image: Annotated[str | None, opt.option("ID|FILE", "Image to explain. [the worst of the first 50]")] = None,
    whole_split: Annotated[
        bool, opt.flag("--all", "Explain all images of the split: what each query is used for.")
    ] = False,
    run: Annotated[
        Path | None, opt.option("RUN", "Explain a training: how stable its matching became.", file_okay=False)
    ] = None,
    layers: Annotated[str, opt.option("last|all|I", "Decoder layer, from 0.", "--layer")] = "last",
    threshold: opt.Threshold = DEFAULT_THRESHOLD,
    cost_class: Weight = None,
    cost_l1: Weight = None,
    cost_giou: Weight = None,
    worst: Annotated[int | None, opt.option("N", "With --all: cases to list. [16]", min=1)] = None,
    out: Annotated[Path | None, opt.option("FILE", "The figure to write. [match-debug.png, numbered]")] = None,
    raw: Annotated[Path | None, opt.option("FILE.npz", "Write the numbers as arrays.")] = None,
    html: Annotated[Path | None, opt.option("FILE", "Write a page to move through layers and queries.")] = None,
    match_classes_by_id: opt.MatchClassesById = False,
    load: "detrcli.LoadOptions",
    overwrite: opt.Overwrite = False,
    json: opt.Json = False,
) -> None:
    """Show which query is matched to which object, and why."""
    costs = {"class": cost_class, "l1": cost_l1, "giou": cost_giou}
    given = {
        "--image": image,
        "--layer": None if layers == "last" else layers,
        **{f"--cost-{name}": weight for name, weight in costs.items()},
        "--raw": raw,
        "--html": html,
    }
    if whole_split and run is not None:
        raise UsageError("--all explains a split, --run a training. Use one of them.")
    if run is None and data.path is None and not any(data.files["val"]):
        raise UsageError("Give DATA, or --val-ann and --val-images, or --run RUN.")
    for name, value in given.items():
        if value is not None and (whole_split or run is not None):
            raise UsageError(f"{name} is for a single image, not for {'--all' if whole_split else '--run'}.")
    if worst is not None and not whole_split:
        raise UsageError("--worst needs --all.")
    check_files([(out, FIGURE), (raw, ARRAYS), (html, PAGE)], overwrite=overwrite, data=data)
    if run is None:
        opt.check_available(load.weights, load, data)
    matching = detrcli.explain_matching(
        data, load, image=image, whole_split=whole_split, run=run, split=split, layers=layers, threshold=threshold,
        other_weights={name: weight for name, weight in costs.items() if weight is not None}, worst=worst or 16,
        match_classes_by_id=match_classes_by_id, reporter=STDERR,
    )  # fmt: skip
    if out is None:
        out = next_free_file(f"match-debug{'-run' if run else '-all' if whole_split else ''}.png")
        STDERR.note(f"writing {out}")
    write_report(matching, out, raw, html)
    paths = {"picture": out, "raw": raw, "page": html}
    print_result(matching, json=json, files={name: str(path) for name, path in paths.items() if path is not None})
