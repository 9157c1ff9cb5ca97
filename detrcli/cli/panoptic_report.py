"""What `detr eval --panoptic` prints."""

from typing import Any

from detrcli.cli.console import print_table
from detrcli.evaluation.panoptic import PanopticQuality, Quality
from detrcli.system.text import escape_controls


def panoptic_document(found: PanopticQuality, predictions: str) -> dict[str, Any]:
    """All of it, in plain values."""
    return {"schema": "detr.eval/1", "images": found.images, "predictions": predictions, "panoptic": found.document()}


def show_panoptic(found: PanopticQuality, predictions: str) -> None:
    """Print it for people."""
    print(f"{escape_controls(predictions)}: {found.images:,} pictures\n")
    show_quality(found)


def show_quality(found: PanopticQuality) -> None:
    """The numbers, as tables."""
    groups = {"panoptic": found.all, "things": found.things, "stuff": found.stuff}
    print_table(("", "PQ", "SQ", "RQ"), [(name, *_numbers(one)) for name, one in groups.items()])
    print()
    print_table(
        ("class", "id", "", "PQ", "SQ", "RQ"),
        [
            (escape_controls(one.label), str(one.category_id), "thing" if one.thing else "stuff", *_numbers(one))
            for one in sorted(found.per_class, key=lambda one: (-one.PQ, one.label))
        ],
    )


def _numbers(quality: Quality) -> list[str]:
    return ["-1" if value < 0 else f"{value:.3f}" for value in (quality.PQ, quality.SQ, quality.RQ)]
