"""What `detr data check` prints of a data set."""

from dataclasses import asdict
from typing import Any

from detrcli.cli.console import print_table, warn
from detrcli.data.examine import DatasetReport

SHOWN = 3  # problems of a kind that are listed


def document(found: DatasetReport, *, held_out: bool) -> dict[str, Any]:
    """All of it, in plain values."""
    return {
        "schema": "detr.data-check/1",
        "layout": found.layout,
        "held_out": held_out,  # val is a part of train
        "decoded": found.decoded,  # every picture, not its header only
        "masks": found.masks,  # whether every mask was looked at; null where there are none
        "splits": {split: asdict(found.summary(split)) for split in found.splits},
        "problems": [asdict(problem) for problem in found.problems],
    }


def show_report(found: DatasetReport, *, held_out: bool) -> None:
    """Print it for people."""
    print(f"layout: {found.layout}")
    if held_out:
        warn("there is no validation split: a tenth of train is held out, by a hash of the file names")
    if not found.decoded:
        warn("the pictures' headers were read; decoding them all takes more than a minute: --full")
    if found.masks is False:
        warn("the masks were not looked at, which takes more than a minute: --full")
    summaries = {split: found.summary(split) for split in found.splits}
    print_table(
        ("split", "images", "boxes", "empty images", "most boxes"),
        [(split, s.images, s.boxes, s.empty_images, s.most_boxes) for split, s in summaries.items()],
    )
    classes = {(c.category_id, c.label) for s in summaries.values() for c in s.classes}
    boxes = {split: {(c.category_id, c.label): c.boxes for c in s.classes} for split, s in summaries.items()}
    print()
    print_table(
        ("id", "class", *(f"{split} boxes" for split in summaries)),
        [(str(i), label, *(boxes[split].get((i, label), 0) for split in summaries)) for i, label in sorted(classes)],
    )
    if found.problems:
        print()
        print_table(("", "kind", "split", "count", "where", "what"), _grouped(found))


def _grouped(found: DatasetReport) -> list[tuple[str, str, str, int | None, str, str]]:
    """The first few problems of each kind and split, errors first."""
    rows: list[tuple[str, str, str, int | None, str, str]] = []
    for (severity, kind, split), members in found.by_kind().items():
        for i, problem in enumerate(members[:SHOWN]):
            first = (severity, kind, split or "all", len(members)) if i == 0 else ("", "", "", None)
            rows.append((*first, problem.where, problem.what))
        if len(members) > SHOWN:
            rows.append(("", "", "", None, f"and {len(members) - SHOWN} more", "(--json lists all)"))
    return rows
