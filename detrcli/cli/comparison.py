"""What `detr eval` prints of several models on one split."""

from collections.abc import Sequence
from typing import Any

from detrcli.api.evaluating import Evaluation
from detrcli.cli.console import print_table
from detrcli.cli.evaluation_report import document
from detrcli.evaluation.comparison import Difference, compared
from detrcli.evaluation.metrics import METRICS
from detrcli.system.text import visible


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
    rows = [(metric, *(f"{one.metrics[metric]:.3f}" for one in found)) for metric in METRICS]
    rows.append(("parameters", *(f"{one.parameters or 0:,}" for one in found)))
    print_table(("", *names), rows)
    print()
    for one in _differences(names, found):
        print(visible(one.verdict))
