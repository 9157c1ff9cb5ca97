"""Display of a training while it runs, and of its result."""

import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal

from rich.live import Live
from rich.text import Text

from detrcli.api.runs import TrainingPlan, TrainingResult
from detrcli.cli.console import STDERR, StderrReporter, is_terminal, print_result
from detrcli.cli.terminal import console
from detrcli.render.plot import LOSS
from detrcli.system.launch import launch
from detrcli.system.text import escape_controls
from detrcli.training.progress import TrainingListener, TrainingProgress
from detrcli.training.run_folder import CURVES, Row

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

    def close(self) -> None:
        """End the live display."""
        if self._live:
            self._live.stop()
            self._live = None

    def step(self, progress: TrainingProgress) -> None:
        if not self._quiet and not self._position and is_terminal(sys.stderr):
            self._live = Live(console=console(sys.stderr), refresh_per_second=4, transient=True)
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
            self._live.update(Text(describe(True), overflow="fold"))
        elif not self._quiet and time.monotonic() - self._last >= INTERVAL:
            self._print(describe(False))

    def _print(self, text: str) -> None:
        self._last = time.monotonic()
        if self._live:
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


def show_result(result: TrainingResult | TrainingPlan, *, json: bool) -> None:
    """Print the result of a training and the next steps. Exit if the training was interrupted."""
    if isinstance(result, TrainingPlan):
        if launch().rank == 0:
            print_result(result, json=json)
        return
    run = shlex.quote(str(result.run))
    if launch().rank == 0 and (result.stopped is None or not json):
        print_result(result, json=json)
    if result.stopped is not None:
        STDERR.note(f"stopped and saved; resume with: detr train --resume {run}")
        sys.exit(result.stopped)
    if not json:
        STDERR.note(f"predict with it: detr predict img.jpg --weights {run}; curves: {result.run / CURVES}")
        for finding in (result.findings or ())[:MAX_FINDINGS]:
            STDERR.note(f"probable cause of errors: {finding}")
        STDERR.note(f"report on the validation split: {result.report or f'detr report {run}'}")
    if result.epochs < result.settings.epochs:
        STDERR.note(f"stopped early after {result.epochs} epochs: patience = {result.settings.patience}")
