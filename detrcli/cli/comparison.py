"""Several models on one split, side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

from detrcli.api.evaluating import Evaluation
from detrcli.cli.console import print_table
from detrcli.cli.evaluation_report import document
from detrcli.evaluation.comparison import Difference, compared
from detrcli.evaluation.metrics import METRICS
from detrcli.system.text import escape_controls


def _differences(names: Sequence[str], found: Sequence[Evaluation]) -> list[Difference]:
    return compared(found[0].truth, [(name, one.results) for name, one in zip(names, found, strict=True)])


def compared_document(names: Sequence[str], found: Sequence[Evaluation]) -> dict[str, Any]:
    """All of it, in plain values."""
    return {
        "schema": "detr.eval-compare/1",
        "models": [document(one, name) for name, one in zip(names, found, strict=True)],
        "differences": [one.document(names[0]) for one in _differences(names, found)],
    }


def show_compared(names: Sequence[str], found: Sequence[Evaluation]) -> None:
    """Print the models side by side, and whether one is better."""
    print(f"{found[0].split}: {len(found[0].truth.images):,} pictures\n")
    more = {"parameters": [one.parameters or 0 for one in found]}
    show_beside(names, [one.metrics for one in found], more, _differences(names, found))


def show_beside(
    names: Sequence[str],
    metrics: Sequence[Mapping[str, float]],
    more: Mapping[str, Sequence[int]],
    differences: Sequence[Difference],
) -> None:
    """The twelve numbers of each, what else is counted, and whether one is better."""
    rows = [(metric, *(f"{one[metric]:.3f}" for one in metrics)) for metric in METRICS]
    rows += [(name, *(f"{count:,}" for count in counts)) for name, counts in more.items()]
    print_table(("", *names), rows)
    print()
    for one in differences:
        print(escape_controls(one.verdict))
