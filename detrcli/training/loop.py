"""The whole training: steps, evaluations, states, from the start or from where it stopped."""

import io
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.formats.header import header_of
from detrcli.data.annotations import annotate
from detrcli.data.dataset import DetectionDataset, Examples, collate_examples, unbroken
from detrcli.errors import DataError, DivergedError, loader_was_killed
from detrcli.evaluation.class_mapping import map_classes
from detrcli.evaluation.masks import has_masks
from detrcli.evaluation.metrics import CocoEvaluator, Evaluator
from detrcli.evaluation.run import DetectedSplit, detect_split, readable
from detrcli.inference.detector import Detector
from detrcli.reporter import Reporter
from detrcli.system import distributed
from detrcli.system.allocator import give_back
from detrcli.system.files import write_whole
from detrcli.training import matching_history
from detrcli.training import run_folder as files
from detrcli.training.interrupts import EndedLoaders, Interrupts, ignore_signals
from detrcli.training.machine import default_workers, memory_mb
from detrcli.training.monitor import Monitor, more_objects_than_queries
from detrcli.training.optimiser import count, make_optimiser
from detrcli.training.order import Batches, Order
from detrcli.training.pictures import beside_truth, first_batch
from detrcli.training.progress import EpochMetrics, Outcome, TrainingListener, TrainingProgress, shared_out
from detrcli.training.run_folder import LOSS, VALIDATION_LOSS, RunFolder, best_of, since_best
from detrcli.training.run_status import FIRST_BATCH
from detrcli.training.settings import Settings
from detrcli.training.setup import Data, Initial
from detrcli.training.state import save_state
from detrcli.training.step import AnotherDivergedError, Trainer
from detrcli.training.validation_loss import validation_loss

# What a process wishes for between two steps, beside the exit code to stop with.
SAVE, STOP = 1.0, 2.0  # STOP: a process cannot go on
KEPT_PICTURES = 256 * 2**20  # bytes of decoded pictures, in all loader processes of a process together


class _Stopped(Exception):  # noqa: N818  # no error
    """An evaluation was interrupted; what came before it is saved."""


@dataclass(frozen=True)
class Seen:
    """The batches of a step, and how long they were waited for; or why there are none."""

    batches: Sequence[Examples] = ()
    waited: float = 0.0
    error: Exception | None = None


class Training:
    """One training: everything that a saved state must give back is an attribute here."""

    def __init__(
        self,
        initial: Initial,
        data: Data,
        device: torch.device,
        folder: RunFolder | None,
        report: TrainingListener,
        source: Mapping[str, Any] | None = None,
        evaluator: Evaluator | None = None,
    ) -> None:
        self.initial, self.device = initial, device
        self.settings: Settings = initial.settings
        self.folder, self.report = folder, report
        self.source = dict(source or {})  # whoever resumes finds here which data is meant
        self.order = Order(
            len(data.train),
            self.settings.batch_size,
            self.settings.accumulate,
            self.settings.seed,
            distributed.rank(),
            distributed.world_size(),
        )
        self.model = initial.checkpoint.model().to(device)
        self.model.freeze(initial.freeze)
        self.data = data.with_masks() if self.model.has_masks else data
        self.val_has_masks = self.model.has_masks and has_masks(data.truth)
        self.evaluator = evaluator or CocoEvaluator(self.val_has_masks)
        self.loss = initial.checkpoint.make_loss()
        self.parameter_groups = initial.checkpoint.architecture.parameter_groups(self.model)
        self.trainer = Trainer(
            self.model,
            self.loss,
            make_optimiser(self.parameter_groups, self.settings, fresh_backbone=initial.fresh_backbone),
            self.settings,
            self.order.steps,
            device,
        )
        self.step = 0  # steps done
        self.rows: list[dict[str, float | None]] = []  # epochs done
        self.sums = EpochMetrics()
        self.monitor = Monitor()
        self.ended_loaders = EndedLoaders()
        self.seconds = 0.0  # of the sessions before this one
        self._since = time.perf_counter()
        self._saved = time.perf_counter()

    def groups(self) -> list[tuple[str, int, float | None]]:
        """What is trained: name, parameters, learning rate; None for what stays as it is."""
        trained = [
            (group["name"], count(group["params"]), group["base"]) for group in self.trainer.optimiser.param_groups
        ]
        frozen = count(p for p in self.model.parameters() if not p.requires_grad)
        return [*trained, ("frozen", frozen, None)]

    def summary(self, run: Path) -> str:
        """What begins now, in a line."""
        processes = f" over {self.order.world} processes" if self.order.world > 1 else ""
        done = len(self.rows)
        left = f"done after {done}" if self._finished else f"epochs {done + 1} to {self.settings.epochs}"
        return (
            f"{run}: {len(self.data.train):,} pictures, {len(self.data.classes)} classes, "
            f"{self.order.step_size} pictures a step{processes}, {self.order.steps:,} steps an epoch, "
            f"{left}"
        )

    def count_queries(self) -> None:
        """Say it where there are too few of them."""
        queries = self.initial.checkpoint.config.queries
        objects = self.data.train.counts
        if crowded := int((objects > queries).sum()):
            self.report.note(more_objects_than_queries(int(objects.max()), crowded, queries))

    # ---- what goes in and out of the state --------------------------------------------------------------

    def state(self, sums: Sequence[EpochMetrics]) -> dict[str, Any]:
        """Everything, in tensors and plain values. What is random follows from the seed and the step."""
        return {
            "settings": asdict(self.settings),
            "source": self.source,
            "fingerprint": self.data.fingerprint,
            "marks": self.data.marks,
            "weights": header_of(self.initial.checkpoint),
            "fresh_backbone": self.initial.fresh_backbone,
            "freeze": self.initial.freeze,
            "model": self.model.state_dict(),
            "ema": self.trainer.ema,
            "optimiser": self.trainer.optimiser.state_dict(),
            "scaler": self.trainer.scaler.state_dict(),
            "overflows": self.trainer.overflows,
            "step": self.step,
            "sums": [one.facts() for one in sums],  # of each process
            "rows": self.rows,
            "monitor": asdict(self.monitor),
            "seconds": self.seconds + time.perf_counter() - self._since,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Become what the state was taken of."""
        self.model.load_state_dict(state["model"])
        if self.trainer.ema is not None:
            for name, value in state["ema"].items():
                self.trainer.ema[name].copy_(value)
        self.trainer.optimiser.load_state_dict(state["optimiser"])
        self.trainer.scaler.load_state_dict(state["scaler"])
        self.trainer.overflows = state["overflows"]
        self.step, self.rows = state["step"], state["rows"]
        counted = [EpochMetrics.of(facts) for facts in state["sums"]]
        as_many = len(counted) == distributed.world_size()
        self.sums = counted[distributed.rank()] if as_many else shared_out(counted, distributed.world_size())
        self.monitor = Monitor(**state["monitor"])
        self.seconds = state["seconds"]

    def save(self) -> None:
        """Write the state. All processes must call it, between two steps."""
        sums = distributed.gather(self.sums)
        if self.folder:
            save_state(self.folder.path, self.state(sums))
        self._saved = time.perf_counter()

    # ---- the way through it -----------------------------------------------------------------------------

    def go(self, interrupts: Interrupts) -> Outcome:
        """Train to the end, or until interrupted."""
        code = None
        batches: Iterator[Examples] | None = None
        try:
            while not self._finished:
                ended = self._epochs_of_steps > len(self.rows)
                if batches is None and not ended:
                    batches = self.load()
                seen = Seen() if ended or batches is None else self._next(batches)
                if code := self._pause(interrupts, seen.error):
                    break
                if ended:
                    self._end_epoch(interrupts)
                else:
                    self._one_step(seen)
        except _Stopped:
            code = interrupts.code
        finally:
            self.ended_loaders.give_back()
        best = best_of(self.rows, self.evaluator.best)
        return Outcome(len(self.rows), best, self.seconds + time.perf_counter() - self._since, code)

    @property
    def _epochs_of_steps(self) -> int:
        return self.step // self.order.steps

    @property
    def _finished(self) -> bool:
        done = len(self.rows) >= self.settings.epochs
        return done or (
            self.settings.patience > 0 and since_best(self.rows, self.evaluator.best) >= self.settings.patience
        )

    def _pause(self, interrupts: Interrupts, error: Exception | None) -> int | None:
        """Save where any process wishes so, was told to stop, or cannot go on; the exit code where all stop."""
        due = time.perf_counter() - self._saved > 60 * self.settings.save_every
        mine = STOP if error else interrupts.wish() or (SAVE if due and self.folder else 0)
        wish = distributed.greatest(mine)
        if wish:
            self.save()
        if error is None:
            return int(wish) if wish > STOP else DataError.exit_code if wish == STOP else None
        if interrupts.code is not None and loader_was_killed(error):
            # A signal to the whole group reached the loader's processes before they could ignore it.
            return interrupts.code
        raise error

    def _next(self, batches: Iterator[Examples]) -> Seen:
        """The batches of a step, or why there are none: a broken picture, or a loader that was killed."""
        began = time.perf_counter()
        try:
            self.ended_loaders.let_through()
            seen = [next(batches) for _ in range(self.settings.accumulate)]
            self.ended_loaders.hold_back()
        except DataError as error:
            error.alone = distributed.world_size() > 1
            return Seen(error=error)
        except RuntimeError as error:
            if not loader_was_killed(error):
                raise
            return Seen(error=error)
        return Seen(seen, time.perf_counter() - began)

    def load(self) -> Iterator[Examples]:
        """The batches from here to the end of the last epoch, by one set of loader processes."""
        workers = default_workers(self.device) if self.settings.workers is None else self.settings.workers
        dataset = DetectionDataset(
            self.data.train,
            self.initial.checkpoint.preprocessing,
            augmentation=self.settings.augmentation,
            seed=self.settings.seed,
            keep=KEPT_PICTURES // max(1, workers),
        )
        loader: Any = DataLoader(
            dataset,
            batch_sampler=Batches(self.order, self.step, self.settings.epochs * self.order.steps),
            num_workers=workers,
            collate_fn=collate_examples,
            worker_init_fn=ignore_signals,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else it would draw from the model's random numbers
        )
        return unbroken(loader)

    def _one_step(self, seen: Seen) -> None:
        began = time.perf_counter()
        if self.step == 0 and self.folder:
            weights = self.initial.checkpoint
            self.folder.write_picture(first_batch(seen.batches[0], weights.classes, weights.preprocessing), FIRST_BATCH)
        try:
            done = self.trainer.step(seen.batches, self.step)
        except DivergedError as error:
            raise self._diverged(seen.batches, error) from error
        self.sums.add(done, seen.waited + time.perf_counter() - began, seen.waited)
        for note in self.monitor.after_step(self.step, done):
            self.report.note(note)
        self.step += 1
        self.report.step(self._progress())

    def _progress(self) -> TrainingProgress:
        sums, steps = self.sums, self.order.steps
        per_step = sums.seconds / sums.steps
        return TrainingProgress(
            epoch=(self.step - 1) // steps + 1,
            epochs=self.settings.epochs,
            done=(self.step - 1) % steps + 1,
            steps=steps,
            loss=sums.loss / sums.steps,
            parts={name: value / sums.steps for name, value in sums.parts.items()},
            class_error=sums.class_error,
            pictures_per_second=distributed.world_size() * sums.pictures / sums.seconds,
            waiting=sums.waiting / sums.seconds,
            memory_mb=memory_mb(self.device),
            seconds_left=per_step * (self.settings.epochs * steps - self.step),
        )

    def _diverged(self, seen: Sequence[Examples], error: DivergedError) -> DivergedError:
        """Keep the state, which is good still, and the batches that broke it, of whichever process."""
        mine = None if isinstance(error, AnotherDivergedError) else _as_plain(seen)
        guilty = next((batches for (batches,) in distributed.gather((mine,)) if batches), None)
        self.save()
        where = ""
        if self.folder:
            data = io.BytesIO()
            torch.save({"step": self.step, "batches": guilty}, data)
            write_whole(self.folder.path / files.DIVERGED, data.getvalue())
            where = f" The state before it and {files.DIVERGED}, the batch that did it, are in {self.folder.path}."
        ids = ", ".join(str(i) for batch in guilty or [] for i in batch["image_ids"][:4])
        epoch, place = self.order.place(self.step)
        return DivergedError(
            f"Training diverged in epoch {epoch}, step {place + 1} (images {ids}): {str(error).splitlines()[0]}\n"
            f"Start again with a lower --lr, with --set warmup=N, or with precision = fp32 or bf16.{where}"
        )

    # ---- the end of an epoch ----------------------------------------------------------------------------

    def _end_epoch(self, interrupts: Interrupts) -> None:
        epoch, sums = len(self.rows) + 1, self.sums
        evaluated = epoch % self.settings.eval_every == 0 or epoch == self.settings.epochs
        values: Mapping[str, float] = {}
        val_loss: float | None = None
        if evaluated and len(self.data.truth.images):
            self.save()  # an evaluation that is cut off costs no training
            values, val_loss = self._evaluate(interrupts)

        names = list(sums.parts)
        loss, matched, wrong, *parts = distributed.mean(
            [sums.loss, sums.matched, sums.wrong, *(sums.parts[name] for name in names)]
        )
        rates = {group["name"]: group["lr"] for group in self.trainer.optimiser.param_groups}
        first, *others = self.parameter_groups
        row: dict[str, float | None] = {
            "epoch": epoch,
            "loss": loss / sums.steps,
            VALIDATION_LOSS: val_loss,
            **{LOSS + name: part / sums.steps for name, part in zip(names, parts, strict=True)},
            "class_error": 100 * wrong / matched if matched else None,
            "grad_norm": sums.norm / sums.updates if sums.updates else None,
            "lr": rates.get(first, 0.0),
            **{f"lr_{name}": rates.get(name, 0.0) for name in others},
            **dict.fromkeys(self.evaluator.names),
            **values,
            "pictures_per_second": round(distributed.world_size() * sums.pictures / sums.seconds, 2),
            "waiting": round(sums.waiting / sums.seconds, 4),
            "memory_mb": memory_mb(self.device),
            "seconds": round(self.seconds + time.perf_counter() - self._since, 1),
        }
        self.rows.append(row)
        self.sums = EpochMetrics()
        notes = self.monitor.after_epoch(row["class_error"])
        best = best_of(self.rows, self.evaluator.best)
        if self.folder:
            self.folder.write_weights(self.weights(), best=best is row or best is None)
            self.folder.write_rows(self.rows, self.evaluator.names)
        self.save()
        give_back()
        self.report.epoch(row, best=best is row and (row[self.evaluator.best] or 0) > 0)
        for note in notes:
            self.report.note(note)

    def weights(self) -> Checkpoint:
        """The weights as they are now, or their running mean."""
        tensors = self.trainer.ema or self.model.state_dict()
        # Dropped out is only in training; what is kept is what it is evaluated with.
        return replace(self.initial.checkpoint, tensors=tensors)

    def _evaluate(self, interrupts: Interrupts) -> tuple[Mapping[str, float], float | None]:
        """The code of `detr eval`, on the validation split; and its loss."""
        data, weights = self.data, self.weights()
        # Batch norm counts in each process by itself: all evaluate what the first one keeps.
        distributed.broadcast(weights.tensors.values())
        model = None if self.trainer.ema else self.model.eval()
        detector = Detector(weights, self.device, self.settings.precision, model)
        share = -(-len(data.truth.images) // distributed.world_size())
        done = 0

        def advance(steps: int) -> None:
            nonlocal done
            done += steps
            self.report.evaluating(done, share)
            if interrupts.wish():
                raise _Stopped

        reporter = Reporter()
        reporter.progress = lambda *_: nullcontext(advance)  # type: ignore[method-assign]

        try:
            found: DetectedSplit = detect_split(
                detector,
                data.val,
                data.truth,
                map_classes(weights.classes, data.truth.classes),
                batch_size=self.settings.batch_size,
                reporter=reporter,
            )
        except RuntimeError:
            # Another process that was told to stop, as we were, no longer answers.
            if distributed.world_size() == 1 or interrupts.wish() is None:
                raise
            raise _Stopped from None
        truth = readable(data.truth, found, skip_bad=False)
        annotated = annotate(data.val, weights.classes)
        if self.folder:
            self.folder.write_picture(beside_truth(data.val, truth, found.results), files.PREDICTIONS)
            if self.loss.matcher is not None:
                matching_history.append(self.folder.path, len(self.rows) + 1, detector, annotated, self.loss.matcher)
        learned = annotate(data.val, weights.classes, masks=True) if self.val_has_masks else annotated
        return self.evaluator.evaluate(truth, found.results), validation_loss(detector, learned, self.loss)


def _as_plain(batches: Sequence[Examples]) -> list[dict[str, Any]]:
    """Batches in tensors and plain values, which load without this package."""
    return [
        {
            "image_ids": batch.image_ids,
            "images": batch.batch.images,
            "padding": batch.batch.padding,
            "labels": [target.labels for target in batch.targets],
            "boxes": [target.boxes for target in batch.targets],
        }
        for batch in batches
    ]
