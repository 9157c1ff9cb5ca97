"""`detr match-debug --run`: how steady the matching became in a training."""

import csv
from pathlib import Path
from typing import Any

from detrcli.cli.console import print_json, print_table, warn
from detrcli.cli.outputs import next_free_file
from detrcli.errors import DataError
from detrcli.render.draw import save
from detrcli.render.instability_figure import instability_figure
from detrcli.system.text import visible
from detrcli.training.matching_history import read
from detrcli.training.run_folder import METRICS_FILE

DEFAULT_OUT = "match-debug-run.png"


def show_run(run: Path, out: Path | None, *, json: bool) -> None:
    """The share of objects that changed their query from one evaluation to the next, layer by layer."""
    kept = read(run)
    if len(kept.epochs) < 2:
        raise DataError(f"{run}: its matching was kept once so far; it takes two evaluations to compare.")
    targets = int(kept.counts.sum())
    epochs = kept.epochs[1:].tolist()
    rows = {epoch: row for epoch, row in _metrics(run).items() if epoch >= epochs[0]}
    losses, precisions = ([rows.get(epoch, {}).get(name) for epoch in epochs] for name in ("loss", "AP"))
    if out is None:
        out = next_free_file(DEFAULT_OUT)
        warn(f"the picture goes to {out}")
    curves = {
        name: [(epoch, value) for epoch, row in rows.items() if (value := row.get(name)) is not None]
        for name in ("loss", "AP")
    }
    save(instability_figure(epochs, kept.moved / targets, curves), out)
    if json:
        print_json(
            {
                "schema": "detr.match-debug-run/1",
                "run": str(run),
                "images": len(kept.image_ids),
                "targets": targets,
                "evaluations": [
                    {"epoch": epoch, "changed": moved, "loss": loss, "AP": precision}
                    for epoch, moved, loss, precision in zip(
                        epochs, kept.moved.tolist(), losses, precisions, strict=True
                    )
                ],
                "files": {"picture": str(out)},
            }
        )
        return
    print(
        visible(
            f"{run}: {targets:,} objects in {len(kept.image_ids):,} pictures, matched at {len(kept.epochs)} "
            "evaluations; how many have another query than the time before"
        )
    )
    print()
    print_table(
        ("epoch", *(f"layer {layer}" for layer in range(kept.queries.shape[1])), "loss", "AP"),
        [
            (epoch, *(f"{share:.1%}" for share in shares), _number(loss), _number(precision))
            for epoch, shares, loss, precision in zip(
                epochs, (kept.moved / targets).tolist(), losses, precisions, strict=True
            )
        ],
    )


def _metrics(run: Path) -> dict[int, dict[str, Any]]:
    """Loss and AP by epoch, where they were measured."""
    try:
        with (run / METRICS_FILE).open(encoding="utf-8", newline="") as file:
            return {
                int(row["epoch"]): {name: float(row[name]) if row[name] else None for name in ("loss", "AP")}
                for row in csv.DictReader(file)
            }
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"{run / METRICS_FILE}: cannot be read as the figures of a training ({error})."
        ) from None


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
