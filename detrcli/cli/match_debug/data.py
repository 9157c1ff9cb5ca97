"""`detr match-debug --all`: what the queries are for, over a data set."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detrcli.cli.console import Status, print_json, print_table, warn
from detrcli.cli.match_debug.document import class_of, rounded
from detrcli.cli.outputs import next_free_file
from detrcli.cli.truths import InspectionSession
from detrcli.config import LossConfig, MatchingConfig
from detrcli.inspection.losses import charges
from detrcli.inspection.matching import TERMS, explain, weights_of
from detrcli.inspection.usage import SIZES, Explained, HardExample, Usage, usage
from detrcli.render.draw import save
from detrcli.render.usage_figure import usage_sheet
from detrcli.structures import Classes
from detrcli.system.text import some
from detrcli.variants.detr import build_criterion

DEFAULT_OUT = "match-debug-all.png"
SHOWN = 10  # queries in the table; the document has all
ONES = dict.fromkeys(TERMS, 1.0)


def show_data(
    truths: InspectionSession,
    matching: MatchingConfig,
    loss: LossConfig,
    threshold: float,
    most: int,
    out: Path | None,
    *,
    json: bool,
) -> None:
    """Match all images of a split: the tables or the document, and the picture."""
    with Status("matching", len(truths.annotations)) as status:

        def images() -> Iterator[Explained]:
            criterion = build_criterion(loss, matching)
            for i, example, output in truths:
                target = example.target.to(truths.detector.device)
                height, width = truths.annotations.sizes[i].tolist()
                yield Explained(
                    place=i,
                    image_id=example.image_id,
                    width=width,
                    height=height,
                    target=example.target,
                    layers=explain(output, target, matching),
                    charges=charges(output, target, criterion, ONES)[-1],
                )
                status.advance()

        found = usage(images(), len(truths.classes), threshold, most)
    if out is None:
        out = next_free_file(DEFAULT_OUT)
        warn(f"the picture goes to {out}")
    save(usage_sheet(found, truths.picture, truths.classes), out)
    if json:
        print_json(_document(found, truths, matching, threshold, out))
    else:
        _show(found, truths)


def _document(
    found: Usage, truths: InspectionSession, matching: MatchingConfig, threshold: float, out: Path
) -> dict[str, Any]:
    return {
        "schema": "detr.match-debug-all/1",
        "images": found.images,
        "targets": found.targets,
        "threshold": threshold,
        "cost_weights": weights_of(matching),
        "queries": [
            {
                "query": query,
                "used": int(found.used[query].sum()),
                "sure": int(found.sure[query]),
                "classes": [
                    {**class_of(truths.classes, label), "targets": int(found.used[query, label])}
                    for label in np.flatnonzero(found.used[query]).tolist()
                ],
                "sizes": dict(zip(SIZES, found.sizes[query].tolist(), strict=True)),
                "centre": rounded(found.centres[query]) if found.used[query].any() else None,
            }
            for query in range(len(found.used))
        ],
        "dead": found.dead,
        "instability": [
            {"layer": i, "changed": moved, "share": rounded(moved / max(1, found.targets))}
            for i, moved in enumerate(found.moved.tolist(), 1)
        ],
        "smallest_margins": [_case(case, truths) for case in found.closest],
        "largest_losses": [_case(case, truths) for case in found.worst],
        "files": {"picture": str(out)},
    }


def _case(case: HardExample, truths: InspectionSession) -> dict[str, Any]:
    pair = case.pair
    return {
        "image": {"id": case.image_id, "file": str(truths.annotations.path(case.place))},
        "target": case.target,
        **class_of(truths.classes, case.label),
        "box": rounded(case.box),
        "query": pair.query,
        "says": class_of(truths.classes, case.said),
        "score": rounded(case.score),
        "runner_up": pair.runner_up,
        "margin": None if pair.margin is None else rounded(pair.margin),
        "loss": {"total": rounded(case.whole_loss), **dict(zip(TERMS, rounded(case.loss), strict=True))},
    }


def _show(found: Usage, truths: InspectionSession) -> None:
    counts = found.used.sum(1)
    print(
        f"{found.images:,} pictures, {found.targets:,} objects: {len(found.dead)} of {len(counts)} queries "
        f"were given none" + (f" ({some([str(query) for query in found.dead], 20)})" if found.dead else "")
    )
    if not found.targets:
        return
    order = np.argsort(-counts, kind="stable")[:SHOWN].tolist()
    print(f"\nthe {len(order)} queries that were given most")
    print_table(
        ("query", "objects", "sure", *SIZES, "cx", "cy", "classes"),
        [
            (
                query,
                int(counts[query]),
                int(found.sure[query]),
                *found.sizes[query].tolist(),
                *(f"{value:.2f}" for value in found.centres[query]),
                _classes(found.used[query], truths.classes),
            )
            for query in order
            if counts[query]
        ],
    )
    if len(found.moved):
        print("\nobjects whose query is another than in the layer before")
        print_table(
            ("layer", "objects", "share"),
            [
                (i, moved, f"{moved / max(1, found.targets):.1%}")
                for i, moved in enumerate(found.moved.tolist(), 1)
            ],
        )
    for title, cases in (
        ("the smallest margins: a little less and they would have another query", found.closest),
        ("the largest losses: look here for wrong labels", found.worst),
    ):
        print(f"\n{title}")
        print_table(
            (
                "image",
                "file",
                "object",
                "class",
                "query",
                "says",
                "score",
                "second",
                "margin",
                *TERMS,
                "loss",
            ),
            _rows(cases, truths),
        )


def _classes(used: np.ndarray, classes: Classes) -> str:
    """The commonest first."""
    order = [label for label in np.argsort(-used, kind="stable").tolist() if used[label]]
    return some([f"{classes.names[label]} {used[label]:,}" for label in order], 5)


def _rows(cases: Sequence[HardExample], truths: InspectionSession) -> list[tuple[str | int | None, ...]]:
    return [
        (
            str(case.image_id),
            truths.annotations.path(case.place).name,
            case.target,
            str(truths.classes.names[case.label]),
            case.pair.query,
            str(truths.classes.names[case.said]),
            f"{case.score:.3f}",
            case.pair.runner_up,
            "" if case.pair.margin is None else f"{case.pair.margin:.3f}",
            *(f"{value:.3f}" for value in case.loss),
            f"{case.whole_loss:.3f}",
        )
        for case in cases
    ]
