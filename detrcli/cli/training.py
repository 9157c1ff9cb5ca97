"""Display of a training, its outcome and its plan."""

import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from detrcli.api.runs import TrainingPlan, TrainingResult
from detrcli.cli.console import STDERR, StderrReporter, is_terminal, print_json, print_table, stderr_console, warn
from detrcli.render.curves import LOSS
from detrcli.system.launch import launch
from detrcli.system.text import escape_controls
from detrcli.training.progress import TrainingListener, TrainingProgress
from detrcli.training.run_folder import CURVES, Row

if TYPE_CHECKING:
    from rich.live import Live

INTERVAL = 30.0  # seconds between lines of progress, without a terminal
BAR_WIDTH = 24
MAX_FINDINGS = 3  # at the end of a training; the report has all


class TrainingDisplay(StderrReporter, TrainingListener):
    """Shows a training on stderr: live on a terminal, otherwise a line every 30 seconds."""

    def __init__(self) -> None:
        self.wording = STDERR.wording
        self._quiet = launch().rank > 0
        self._live: Live | None = None
        self._last = time.monotonic()
        self._position = ""  # epoch; empty before the first step

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def step(self, progress: TrainingProgress) -> None:
        if not self._quiet and not self._position and is_terminal(sys.stderr):
            from rich.live import Live

            self._live = Live(console=stderr_console(), refresh_per_second=4, transient=True)
            self._live.start()
        self._position = f"epoch {progress.epoch}/{progress.epochs}"
        self._update(lambda bar: _describe(progress, bar=bar))

    def epoch(self, row: Row, *, best: bool) -> None:
        parts = [f"epoch {row['epoch']:.0f}", f"loss {row['loss']:.3f}"]
        if row["class_error"] is not None:
            parts.append(f"class error {row['class_error']:.1f}%")
        if row.get("AP") is not None:
            names = [name for name in ("AP", "AP50", "mask_AP") if row.get(name) is not None]
            parts += [f"{name.replace('_', ' ')} {row[name]:.3f}" for name in names]
            parts[-1] += " (best)" if best else ""
        parts += [f"lr {row['lr']:.1e}", f"{row['images_per_second']} images/s"]
        if not self._quiet:
            self._print("  ".join(parts))

    def show(self, text: str) -> None:
        self._print(f"detr: {text}")

    @contextmanager
    def progress(
        self, what: str, total: int | None = None, unit: Literal["items", "bytes"] = "items"
    ) -> Iterator[Callable[[int], None]]:
        if not self._position:
            with super().progress(what, total, unit) as advance:
                yield advance
            return
        done = 0

        def show(steps: int) -> None:
            nonlocal done
            done += steps
            text = f"{self._position}: {what} {done:,}/{total or 0:,}"
            self._update(lambda bar: f"{text} {_bar(done, total or 0)}" if bar else text)

        yield show

    def _update(self, describe: Callable[[bool], str]) -> None:
        if self._live:
            from rich.text import Text

            self._live.update(Text(describe(True), overflow="fold"))
        elif not self._quiet and time.monotonic() - self._last >= INTERVAL:
            self._print(describe(False))

    def _print(self, text: str) -> None:
        self._last = time.monotonic()
        if self._live:
            from rich.text import Text

            self._live.console.print(Text(escape_controls(text), overflow="fold"))
        else:
            print(escape_controls(text), file=sys.stderr, flush=True)


def _describe(p: TrainingProgress, *, bar: bool) -> str:
    row = p.row
    terms = ", ".join(f"{name.removeprefix(LOSS)} {row[name]:.3f}" for name in row if name.startswith(LOSS))
    error = "" if row["class_error"] is None else f", class error {row['class_error']:.0f}%"
    memory = "" if row["memory_mb"] is None else f", {row['memory_mb']:,.0f} MB"
    left = timedelta(seconds=round(p.seconds_left))
    lines = (
        f"epoch {p.epoch}/{p.epochs} {_bar(p.done, p.steps) if bar else 'step'} {p.done:,}/{p.steps:,}",
        f"loss {row['loss']:.3f} ({terms}){error}",
        f"{row['images_per_second']:.1f} images/s, {row['waiting']:.0%} waiting for data{memory}, {left} left",
    )
    return ("\n" if bar else " | ").join(lines)


def _bar(done: int, total: int) -> str:
    filled = round(BAR_WIDTH * done / max(1, total))
    return "━" * filled + "╌" * (BAR_WIDTH - filled)


def show_outcome(outcome: TrainingResult, *, json: bool) -> None:
    """Print the outcome of a training."""
    run, row = outcome.run, outcome.best or {}
    metrics = {name: row[name] for name in ("AP", "mask_AP") if name in row}
    best = {"epoch": int(row["epoch"] or 0), **metrics} if row else None
    if json:
        if outcome.stopped is None:
            print_json(
                {
                    "schema": "detr.train/1",
                    "run": str(run),
                    "epochs": outcome.epochs,
                    "best": best,
                    "seconds": round(outcome.seconds, 1),
                    "report": None if outcome.report is None else str(outcome.report),
                    "findings": None if outcome.findings is None else [f.document() for f in outcome.findings],
                }
            )
        return
    names = ["AP", "AP50", *(["mask_AP"] if "mask_AP" in row else [])]
    values = [f"{row[name]:.3f}" if row else "not measured" for name in names]
    print_table(
        ("run", "epochs", "best epoch", *(name.replace("_", " ") for name in names), "time"),
        [
            (
                str(run),
                outcome.epochs,
                str(best["epoch"]) if best else "",
                *values,
                str(timedelta(seconds=round(outcome.seconds))),
            )
        ],
    )
    if outcome.stopped is None:
        quoted = shlex.quote(str(run))
        warn(f"predict with it: detr predict img.jpg --weights {quoted}; curves: {run / CURVES}")
        for finding in (outcome.findings or ())[:MAX_FINDINGS]:
            warn(f"probable cause of errors: {finding}")
        warn(f"report on the validation split: {outcome.report or f'detr report {quoted}'}")


def show_plan(plan: TrainingPlan, *, json: bool) -> None:
    """Print what a training would train, and how long it would take."""
    summaries = {split: plan.examined.summary(split) for split in plan.examined.splits}
    data = {split: {**summary, "classes": len(summary["classes"])} for split, summary in summaries.items()}
    measured = plan.measured
    if json:
        print_json(
            {
                "schema": "detr.train-plan/1",
                "data": {split: {key: s[key] for key in ("images", "boxes", "classes")} for split, s in data.items()},
                "parameters": [{"group": name, "parameters": count, "lr": lr} for name, count, lr in plan.parameters],
                "steps_per_epoch": plan.steps_per_epoch,
                "pictures_per_step": plan.images_per_step,
                "seconds_per_step": round(measured.seconds, 4),
                "seconds_of_training": round(measured.total_seconds),
                "memory_mb": measured.memory_mb,
            }
        )
        return
    print_table(
        ("split", "images", "boxes", "empty images", "most boxes", "classes"),
        [(split, *summary.values()) for split, summary in data.items()],
    )
    print()
    print_table(
        ("parameters of", "count", "learning rate"),
        [(name, count, "frozen" if lr is None else f"{lr:g}") for name, count, lr in plan.parameters],
    )
    memory = "" if measured.memory_mb is None else f", {measured.memory_mb:,.0f} MB of memory"
    print(
        f"\nper step: {plan.images_per_step} images, {measured.seconds:.2f} s{memory}\n"
        f"{plan.steps_per_epoch:,} steps per epoch, {plan.settings.epochs} epochs: "
        f"{timedelta(seconds=round(measured.total_seconds))} without evaluations"
    )
