"""What `detr report` prints of what went wrong."""

from detrcli.api.reporting import Comparison, Report
from detrcli.cli.comparison import show_beside
from detrcli.cli.console import print_table
from detrcli.evaluation.outcomes import FALSE_ALARMS, MISSED
from detrcli.inspection.suspects import SUSPECT_KINDS
from detrcli.system.text import escape_controls


def show_report(found: Report) -> None:
    """Print it for people."""
    failures, outcomes = found.failures, found.failures.outcomes
    metrics = failures.metrics
    between = "" if failures.interval is None else f" ({metrics['AP_low']:.3f} to {metrics['AP_high']:.3f})"
    print(
        f"{escape_controls(failures.session.detector.checkpoint.source)} on {failures.split}: "
        f"{len(failures.truth.images):,} pictures, {outcomes.objects:,} objects"
    )
    print(f"AP {metrics['AP']:.3f}{between}, AP50 {metrics['AP50']:.3f}, AR {metrics['AR100']:.3f}")
    print(f"Detections: scores of {outcomes.threshold:.2f} and more.\n")
    rows: list[tuple[str, int, str]] = [("found", outcomes.found, "")]
    rows += [("missed", count, MISSED[kind]) for kind, count in outcomes.missed_by_kind.items() if count]
    rows += [
        ("false alarm", count, FALSE_ALARMS[kind]) for kind, count in outcomes.false_alarms_by_kind.items() if count
    ]
    rows += [
        (kind.replace("_", " "), len(members), SUSPECT_KINDS[kind])
        for kind, members in failures.suspects.items()
        if members
    ]
    print_table(("", "count", "why"), rows)


def show_comparison(found: Comparison) -> None:
    """Print the models side by side."""
    failures = [one.failures for one in found.reports]
    counts = {
        "found": [one.outcomes.found for one in failures],
        "false alarms": [one.outcomes.false_alarms for one in failures],
    }
    show_beside(found.names, [one.metrics for one in failures], counts, found.differences)
