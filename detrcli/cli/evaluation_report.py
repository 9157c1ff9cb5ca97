"""What `detr eval` prints of an evaluation."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from detrcli.api.evaluating import Evaluation
from detrcli.cli.console import print_table
from detrcli.cli.panoptic_report import show_quality
from detrcli.evaluation.outcomes import ERROR_KINDS, ErrorKind
from detrcli.evaluation.thresholds import Thresholds
from detrcli.system.text import escape_controls

# Name, IoU, size of the objects, detections of an image and class that count (None: --max-detections).
MEANINGS = (
    ("AP", "0.50:0.95", "all", None),
    ("AP50", "0.50", "all", None),
    ("AP75", "0.75", "all", None),
    ("APs", "0.50:0.95", "small", None),
    ("APm", "0.50:0.95", "medium", None),
    ("APl", "0.50:0.95", "large", None),
    ("AR1", "0.50:0.95", "all", 1),
    ("AR10", "0.50:0.95", "all", 10),
    ("AR100", "0.50:0.95", "all", None),
    ("ARs", "0.50:0.95", "small", None),
    ("ARm", "0.50:0.95", "medium", None),
    ("ARl", "0.50:0.95", "large", None),
)


def document(
    found: Evaluation, name: str, errors: Sequence[ErrorKind] | None = None, best: Thresholds | None = None
) -> dict[str, Any]:
    """All of it, in plain values; `name` is of the weights, or of the file of results."""
    facts: dict[str, Any] = {"split": found.split, "threshold": found.threshold, "max_detections": found.max_detections}
    if found.class_mapping is not None:
        facts |= {
            "weights": name,
            "parameters": found.parameters,
            "paired_by": found.class_mapping.by,
            "only_weights": list(found.class_mapping.only_weights),
            "only_data": list(found.class_mapping.only_data),
            "seconds_per_picture": {
                stage: round(spent, 6) for stage, spent in (found.seconds_per_picture or {}).items()
            },
        }
    else:
        facts["predictions"] = name
    return {
        "schema": "detr.eval/1",
        "images": len(found.truth.images),
        "metrics": dict(found.metrics),
        **({} if found.masks is None else {"masks": dict(found.masks)}),
        **({} if found.boundaries is None else {"boundary": dict(found.boundaries)}),
        **({} if found.panoptic is None else {"panoptic": found.panoptic.document()}),
        "per_class": [asdict(one) for one in found.per_class],
        **facts,
        **({} if errors is None else {"errors": [asdict(one) for one in errors]}),
        **({} if best is None else {"thresholds": best.document()}),
        "scoring_seconds": round(found.scoring_seconds, 6),
    }


def show_evaluation(
    found: Evaluation, name: str, errors: Sequence[ErrorKind] | None = None, best: Thresholds | None = None
) -> None:
    """Print it for people."""
    objects = int((~found.truth.crowd).sum())
    print(f"{escape_controls(name)} on {found.split}: {len(found.truth.images):,} pictures, {objects:,} objects")
    if found.threshold:
        print(f"Only detections with a score of {found.threshold} or more count, which lowers AP.")
    print()
    most = found.max_detections
    measured = {"": found.metrics}
    if found.masks is not None and found.boundaries is not None:
        measured = {"boxes": found.metrics, "masks": found.masks, "boundary": found.boundaries}
    print_table(
        ("", *measured, "IoU", "size", "at most"),
        [
            (metric, *(_number(one[metric]) for one in measured.values()), iou, area, min(count or most, most))
            for metric, iou, area, count in MEANINGS
        ],
    )
    print()
    print_table(
        ("class", "id", "AP", "AP50", "objects"),
        [
            (one.label, str(one.category_id), _number(one.AP), _number(one.AP50), one.targets)
            for one in sorted(found.per_class, key=lambda one: (-one.AP, one.label))
        ],
    )
    if found.panoptic is not None:
        print()
        show_quality(found.panoptic)
    if errors is not None:
        print()
        print_table(
            ("error", "what it is", "count", "AP50 without"),
            [(one.kind, ERROR_KINDS[one.kind][1], one.count, f"+{one.cost:.3f}") for one in errors],
        )
    if best is not None:
        print()
        print_table(
            ("highest F1", "from score", "F1", "precision", "recall"),
            [
                (name, *(f"{value:.3f}" for value in (one.threshold, one.f1, one.precision, one.recall)))
                for name, one in (("all classes", best.overall), *best.by_class.items())
            ],
        )
    if found.seconds_per_picture is not None:
        stages = ", ".join(f"{stage} {1000 * s:.1f} ms" for stage, s in found.seconds_per_picture.items())
        print(f"\nA picture takes: {stages}. Scoring all of them took {found.scoring_seconds:.2f} s.")
    if found.parameters is not None:
        print(f"The model has {found.parameters:,} parameters.")


def _number(value: float) -> str:
    return "-1" if value == -1 else f"{value:.3f}"
