"""How a training is shown: live on a terminal, a line now and then elsewhere."""

import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from detrcli.cli.console import STDERR, is_terminal, print_json, print_table, stderr_console, warn
from detrcli.system.launch import launch
from detrcli.system.text import escape_controls

if TYPE_CHECKING:
    import torch
    from rich.live import Live

    from detrcli.api.training import Hooks, TrainingPlan, TrainingResult
    from detrcli.training.machine import Neighbours
    from detrcli.training.progress import TrainingProgress
    from detrcli.training.run_folder import Row

INTERVAL = 30.0  # seconds between two lines, where there is no terminal
BAR = 24
SAID = 3  # findings at the end of a training; the report has all


class Display:
    """What the user sees while a model learns."""

    def __init__(self, *, quiet: bool = False, neighbours: "Neighbours | None" = None) -> None:
        self._quiet = quiet
        self._neighbours = None if quiet else neighbours
        self._live: Live | None = None
        self._last = time.monotonic()
        self._progress: TrainingProgress | None = None

    def __enter__(self) -> Self:
        if not self._quiet and is_terminal(sys.stderr):
            from rich.live import Live

            self._live = Live(console=stderr_console(), refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def step(self, progress: "TrainingProgress") -> None:
        """After each step."""
        if self._neighbours and (advice := self._neighbours.after_step()):
            self.note(advice)
        self._progress = progress
        self._show(lambda: " | ".join(_lines(progress)), lambda: "\n".join(_lines(progress, bar=True)))

    def evaluating(self, done: int, pictures: int) -> None:
        """After each picture of an evaluation."""
        epoch = f"epoch {self._progress.epoch}/{self._progress.epochs}: " if self._progress else ""
        text = f"{epoch}evaluating {done:,}/{pictures:,}"
        self._show(lambda: text, lambda: f"{text} {_bar(done, pictures)}")

    def epoch(self, row: "Row", *, best: bool) -> None:
        """After each epoch."""
        parts = [f"epoch {row['epoch']:.0f}", f"loss {row['loss']:.3f}"]
        if row["class_error"] is not None:
            parts.append(f"class error {row['class_error']:.1f}%")
        if row.get("AP") is not None:
            names = [name for name in ("AP", "AP50", "mask_AP") if row.get(name) is not None]
            parts += [f"{name.replace('_', ' ')} {row[name]:.3f}" for name in names]
            parts[-1] += " (best)" if best else ""
        parts += [f"lr {row['lr']:.1e}", f"{row['pictures_per_second']} pictures/s"]
        self._print("  ".join(parts))

    def note(self, text: str) -> None:
        """Something that the user should know."""
        self._print(f"detr: warning: {text}")

    def _show(self, plain: Any, live: Any) -> None:
        if self._live:
            from rich.text import Text

            self._live.update(Text(live(), overflow="fold"))
        elif not self._quiet and time.monotonic() - self._last >= INTERVAL:
            self._print(plain())

    def _print(self, text: str) -> None:
        if self._quiet:
            return
        self._last = time.monotonic()
        if self._live:
            from rich.text import Text

            self._live.console.print(Text(escape_controls(text), overflow="fold"))
        else:
            print(escape_controls(text), file=sys.stderr, flush=True)


def hooks() -> "Hooks":
    """What a training tells, as the command line shows it; of several processes only the first speaks."""
    from detrcli.api.loading import downloads
    from detrcli.api.training import Hooks
    from detrcli.training.machine import Neighbours

    def report(device: "torch.device") -> Display:
        neighbours = Neighbours() if device.type == "cpu" else None
        return Display(quiet=launch().rank > 0, neighbours=neighbours)

    @contextmanager
    def watch(what: str) -> "Iterator[Callable[[], None]]":
        with STDERR.progress(what) as advance:
            yield lambda: advance(1)

    return Hooks(note=warn, watch=watch, download=lambda: downloads(STDERR), report=report)


def _lines(p: "TrainingProgress", *, bar: bool = False) -> Iterator[str]:
    """How far, how good, how fast."""
    yield (
        f"epoch {p.epoch}/{p.epochs} " + (f"{_bar(p.done, p.steps)} " if bar else "step ") + f"{p.done:,}/{p.steps:,}"
    )
    parts = ", ".join(f"{name} {value:.3f}" for name, value in p.parts.items())
    error = "" if p.class_error is None else f", class error {p.class_error:.0f}%"
    yield f"loss {p.loss:.3f} ({parts}){error}"
    memory = "" if p.memory_mb is None else f", {p.memory_mb:,.0f} MB"
    left = timedelta(seconds=round(p.seconds_left))
    yield f"{p.pictures_per_second:.1f} pictures/s, {100 * p.waiting:.0f}% waiting for data{memory}, {left} left"


def _bar(done: int, total: int) -> str:
    filled = round(BAR * done / max(1, total))
    return "━" * filled + "╌" * (BAR - filled)


def show_outcome(outcome: "TrainingResult", *, json: bool) -> None:
    """The end of a training."""
    run = outcome.run
    measured = outcome.best or {}
    reached = {name: measured[name] for name in ("AP", "mask_AP") if name in measured}
    best = {"epoch": int(measured["epoch"] or 0), **reached} if measured else None
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
                    "findings": None if outcome.findings is None else [one.document() for one in outcome.findings],
                }
            )
        return
    names = ["AP", "AP50", *(["mask_AP"] if "mask_AP" in measured else [])]
    took = timedelta(seconds=round(outcome.seconds))
    print_table(
        ("run", "epochs", "best epoch", *(name.replace("_", " ") for name in names), "time"),
        [
            (
                str(run),
                outcome.epochs,
                str(best["epoch"]) if best else "",
                *(f"{measured[name]:.3f}" if measured else "not measured" for name in names),
                str(took),
            )
        ],
    )
    if outcome.stopped is None:
        warn(f"try it: detr predict img.jpg --weights {shlex.quote(str(run))}; look at {run / 'curves.png'}")
        for one in (outcome.findings or ())[:SAID]:
            warn(f"probably wrong: {one}")
        if outcome.report is not None:
            warn(f"what went wrong on the validation split: {outcome.report}")
        else:
            warn(f"what went wrong on the validation split: detr report {shlex.quote(str(run))}")


def show_plan(plan: "TrainingPlan", *, json: bool) -> None:
    """What would be trained on what, and what it would take."""
    data = {split: plan.examined.summary(split) for split in plan.examined.splits}
    measured = plan.measured
    if json:
        print_json(
            {
                "schema": "detr.train-plan/1",
                "data": {
                    split: {"images": s.images, "boxes": s.boxes, "classes": len(s.classes)}
                    for split, s in data.items()
                },
                "parameters": [
                    {"group": name, "parameters": parameters, "lr": lr} for name, parameters, lr in plan.parameters
                ],
                "steps_per_epoch": plan.steps_per_epoch,
                "pictures_per_step": plan.pictures_per_step,
                "seconds_per_step": round(measured.seconds, 4),
                "seconds_of_training": round(measured.total_seconds),
                "memory_mb": measured.memory_mb,
            }
        )
        return
    print_table(
        ("split", "images", "boxes", "empty images", "most boxes", "classes"),
        [(split, s.images, s.boxes, s.empty_images, s.most_boxes, len(s.classes)) for split, s in data.items()],
    )
    print()
    print_table(
        ("parameters of", "count", "learning rate"),
        [(name, count, "frozen" if lr is None else f"{lr:g}") for name, count, lr in plan.parameters],
    )
    memory = "" if measured.memory_mb is None else f", {measured.memory_mb:,.0f} MB of memory"
    print(
        f"\nper step: {plan.pictures_per_step} pictures, {measured.seconds:.2f} s{memory}\n"
        f"{plan.steps_per_epoch:,} steps an epoch, {plan.settings.epochs} epochs: "
        f"{timedelta(seconds=round(measured.total_seconds))} without evaluations"
    )
