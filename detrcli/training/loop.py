"""The training loop: steps, evaluations and saving of the state, from initial weights or a saved state to the end."""

import io
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.data.annotations import annotate
from detrcli.data.dataset import DetectionDataset, Examples, collate_examples, raise_unreadable
from detrcli.errors import DataError, DivergedError, loader_was_killed
from detrcli.evaluation.class_mapping import map_classes
from detrcli.evaluation.metrics import CocoEvaluator, Evaluator
from detrcli.evaluation.run import detect_split, readable
from detrcli.evaluation.truth import has_masks
from detrcli.inference.detector import Detector
from detrcli.messages import argument
from detrcli.render.data_figures import first_batch, predictions_figure
from detrcli.render.plot import LOSS, VALIDATION_LOSS
from detrcli.reporter import SILENT, Reporter
from detrcli.system import distributed
from detrcli.system.allocator import release_free_memory
from detrcli.system.files import write_whole
from detrcli.training import matching_history
from detrcli.training.evaluation import Interrupted, InterruptibleReporter, validation_loss
from detrcli.training.interrupts import Interrupts, ignore_signals
from detrcli.training.machine import CpuContention, default_workers, memory_mb
from detrcli.training.order import Order
from detrcli.training.progress import NO_LISTENER, Outcome, TrainingListener, TrainingProgress
from detrcli.training.run_folder import DIVERGED, PREDICTIONS, RunFolder, best_of, since_best
from detrcli.training.run_status import FIRST_BATCH
from detrcli.training.setup import Data, Initial
from detrcli.training.state import EpochMetrics, TrainingState, save_state
from detrcli.training.step import AnotherDivergedError, Trainer, make_optimizer

# What a process requests between two steps. The largest request of all processes counts; exit codes are larger still.
SAVE, STOP = 1.0, 2.0  # STOP: the process cannot continue
NO_METRICS: Mapping[str, float] = {}
CACHED_BYTES = 256 * 2**20  # of decoded images, divided among the loader processes of a process


class Training:
    """A training run. Only `state` changes, and is saved; everything else follows from the settings and the data."""

    def __init__(
        self,
        initial: Initial,
        data: Data,
        device: torch.device,
        folder: RunFolder | None = None,
        *,
        source: Mapping[str, Any] | None = None,
        evaluator: Evaluator | None = None,
        listener: TrainingListener = NO_LISTENER,
        reporter: Reporter = SILENT,
    ) -> None:
        """`source` contains the fields of the DataSpec, for resuming. `folder` is set in the first process only."""
        self.initial, self.device, self.folder = initial, device, folder
        self.settings = settings = initial.settings
        self.source = dict(source or {})
        self.listener, self.reporter = listener, reporter
        rank, world = distributed.rank(), distributed.world_size()
        self.order = Order(len(data.train), settings.batch_size, settings.accumulate, settings.seed, rank, world)
        self.model = initial.checkpoint.model().to(device)
        self.model.freeze(initial.freeze)
        self.data = data.with_masks() if self.model.has_masks else data
        self.loss = initial.checkpoint.make_loss()
        self.parameter_groups = initial.checkpoint.architecture.parameter_groups(self.model)
        optimizer = make_optimizer(self.parameter_groups, settings, fresh_backbone=initial.fresh_backbone)
        self.trainer = Trainer(self.model, self.loss, optimizer, settings, self.order.steps, device)
        self.state = TrainingState(self.trainer)
        self.masks = self.model.has_masks and has_masks(data.truth)  # whether masks are evaluated
        self.evaluator = evaluator or CocoEvaluator(self.masks)
        self._contention = CpuContention() if device.type == "cpu" else None
        self._saved = time.perf_counter()

    def groups(self) -> list[tuple[str, int, float | None]]:
        """Return name, number of parameters and learning rate of each parameter group; None if it is frozen."""
        groups = [(group["name"], group["params"], group["base"]) for group in self.trainer.optimizer.param_groups]
        groups.append(("frozen", [p for p in self.model.parameters() if not p.requires_grad], None))
        return [(name, sum(p.numel() for p in parameters), rate) for name, parameters, rate in groups]

    def summary(self, run: Path) -> str:
        processes = f" in {self.order.world} processes" if self.order.world > 1 else ""
        done = len(self.state.rows)
        left = f"done after {done}" if self._finished else f"epochs {done + 1} to {self.settings.epochs}"
        return (
            f"{run}: {len(self.data.train):,} images, {len(self.data.classes)} classes, {self.order.step_size} images "
            f"per step{processes}, {self.order.steps:,} steps per epoch, {left}"
        )

    def check_queries(self) -> None:
        queries, objects = self.initial.checkpoint.config.queries, self.data.train.counts
        if crowded := int((objects > queries).sum()):
            most = int(objects.max())
            self._warn(
                f"{crowded:,} images have more objects than the model has queries ({most} > {queries}): the others "
                f"cannot be detected. Use {argument('queries', most)}"
            )

    def _warn(self, text: str) -> None:
        self.reporter.note(f"warning: {text}")

    def save(self) -> None:
        """Save the state. All processes must call it, between two steps."""
        sums = distributed.gather(self.state.sums)
        if self.folder:
            constant = {**self.initial.document(self.data), "source": self.source}
            save_state(self.folder.path, {**constant, **self.state.document(sums)})
        self._saved = time.perf_counter()

    def run(self, interrupts: Interrupts) -> Outcome:
        """Train to the end, or until interrupted."""
        code = None
        batches: Iterator[Examples] | None = None
        try:
            while not self._finished:
                epoch_is_over = self.state.step // self.order.steps > len(self.state.rows)
                if batches is None and not epoch_is_over:
                    batches = self.load()
                    interrupts.ignore_child_signals()
                start = time.perf_counter()
                loaded, error = ([], None) if epoch_is_over or batches is None else self._next(batches)
                waited = time.perf_counter() - start
                if code := self._pause(interrupts, error):
                    break
                if epoch_is_over:
                    self._end_epoch(interrupts)
                else:
                    self._step(loaded, waited)
        except Interrupted:
            code = interrupts.code
        best = best_of(self.state.rows, self.evaluator.best)
        return Outcome(len(self.state.rows), best, self.state.seconds, code)

    @property
    def _finished(self) -> bool:
        rows, patience = self.state.rows, self.settings.patience
        if len(rows) >= self.settings.epochs:
            return True
        return patience > 0 and since_best(rows, self.evaluator.best) >= patience

    def _pause(self, interrupts: Interrupts, error: Exception | None) -> int | None:
        """Save if any process requests it or must stop. Return the exit code if all processes are to stop."""
        due = time.perf_counter() - self._saved > 60 * self.settings.save_every
        own_request = STOP if error else interrupts.requested_exit_code() or (SAVE if due and self.folder else 0)
        request = distributed.maximum(own_request)
        if request:
            self.save()
        if error is None:
            return int(request) if request > STOP else DataError.exit_code if request == STOP else None
        if interrupts.code is not None and loader_was_killed(error):
            # A signal to the process group reached loader processes before they could ignore it.
            return interrupts.code
        raise error

    def _next(self, batches: Iterator[Examples]) -> tuple[list[Examples], Exception | None]:
        """Return the batches of a step, or the error that prevented loading them."""
        try:
            return [next(batches) for _ in range(self.settings.accumulate)], None
        except DataError as error:
            error.alone = distributed.world_size() > 1
            return [], error
        except RuntimeError as error:
            if not loader_was_killed(error):
                raise
            return [], error

    def load(self) -> Iterator[Examples]:
        """Yield the batches from the current step to the end of the last epoch."""
        workers = default_workers(self.device) if self.settings.workers is None else self.settings.workers
        dataset = DetectionDataset(
            self.data.train,
            self.initial.checkpoint.preprocessing,
            augmentation=self.settings.augmentation,
            seed=self.settings.seed,
            cache_bytes=CACHED_BYTES // max(1, workers),
        )
        loader: Any = DataLoader(
            dataset,
            batch_sampler=self.order.sampler(self.state.step, self.settings.epochs * self.order.steps),
            num_workers=workers,
            collate_fn=collate_examples,
            worker_init_fn=ignore_signals,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # otherwise it would use the model's random numbers
        )
        return raise_unreadable(iter(loader))

    def _step(self, batches: Sequence[Examples], waited: float) -> None:
        state, start = self.state, time.perf_counter()
        if state.step == 0 and self.folder:
            checkpoint = self.initial.checkpoint
            image = first_batch(batches[0], checkpoint.classes, checkpoint.preprocessing)
            self.folder.write_image(image, FIRST_BATCH)
        try:
            result = self.trainer.step(batches, state.step)
        except DivergedError as error:
            raise self._diverged(batches, error) from error
        state.sums.add(result, waited + time.perf_counter() - start, waited)
        for warning in state.monitor.after_step(state.step, result):
            self._warn(warning)
        if self._contention and (contention := self._contention.after_step()):
            self._warn(contention)
        epoch, index = self.order.place(state.step)
        state.step += 1
        progress = TrainingProgress(
            epoch=epoch,
            epochs=self.settings.epochs,
            done=index + 1,
            steps=self.order.steps,
            seconds_left=state.sums.seconds / state.sums.steps * (self.settings.epochs * self.order.steps - state.step),
            row=self._row(state.sums.numbers),
        )
        self.listener.step(progress)

    def _row(
        self, numbers: Mapping[str, float], val_loss: float | None = None, metrics: Mapping[str, float] = NO_METRICS
    ) -> dict[str, float | None]:
        """Return the row of metrics.csv for the current epoch; `numbers` are sums over its steps."""
        sums, matched = self.state.sums, numbers.get("matched")
        rates = {group["name"]: group["lr"] for group in self.trainer.optimizer.param_groups}
        first, *others = self.parameter_groups
        return {
            "epoch": len(self.state.rows) + 1,
            "loss": numbers["loss"] / sums.steps,
            VALIDATION_LOSS: val_loss,
            **{name: value / sums.steps for name, value in numbers.items() if name.startswith(LOSS)},
            "class_error": 100 * numbers["wrong"] / matched if matched else None,
            "grad_norm": sums.numbers["norm"] / sums.updates if sums.updates else None,
            "lr": rates.get(first, 0.0),
            **{f"lr_{name}": rates.get(name, 0.0) for name in others},
            **dict.fromkeys(self.evaluator.names),
            **metrics,
            "images_per_second": round(distributed.world_size() * sums.images / sums.seconds, 2),
            "waiting": round(sums.waiting / sums.seconds, 4),
            "memory_mb": memory_mb(self.device),
            "seconds": round(self.state.seconds, 1),
        }

    def _diverged(self, batches: Sequence[Examples], error: DivergedError) -> DivergedError:
        """Save the state before the step, and the batches of the process that diverged. Return the error to raise."""
        contents: list[dict[str, Any]] = [  # tensors and plain values, which load without this package
            {
                "image_ids": batch.image_ids,
                "images": batch.batch.images,
                "padding": batch.batch.padding,
                "labels": [target.labels for target in batch.targets],
                "boxes": [target.boxes for target in batch.targets],
            }
            for batch in batches
        ]
        gathered = distributed.gather((None if isinstance(error, AnotherDivergedError) else contents,))
        diverged = next((batches_ for (batches_,) in gathered if batches_), None)
        self.save()
        saved = ""
        if self.folder:
            data = io.BytesIO()
            torch.save({"step": self.state.step, "batches": diverged}, data)
            write_whole(self.folder.path / DIVERGED, data.getvalue())
            saved = f" {self.folder.path} contains the state before it, and its batches in {DIVERGED}."
        ids = ", ".join(str(i) for batch in diverged or [] for i in batch["image_ids"][:4])
        epoch, index = self.order.place(self.state.step)
        return DivergedError(
            f"The training diverged in epoch {epoch}, step {index + 1} (images {ids}): {error}.\n"
            f"Start again with a lower {argument('lr')}, with {argument('warmup', 'N')}, or with "
            f"{argument('precision', 'fp32')} or {argument('precision', 'bf16')}.{saved}"
        )

    def _end_epoch(self, interrupts: Interrupts) -> None:
        state, epoch, evaluator = self.state, len(self.state.rows) + 1, self.evaluator
        metrics, val_loss = NO_METRICS, None
        evaluated = epoch % self.settings.eval_every == 0 or epoch == self.settings.epochs
        if evaluated and len(self.data.truth.images):
            self.save()  # so that an interrupted evaluation loses no step
            metrics, val_loss = self._evaluate(interrupts)
        sums = state.sums.numbers
        means = dict(zip(sums, distributed.mean(list(sums.values())), strict=True))  # over all processes
        row = self._row(means, val_loss, metrics)
        state.rows.append(row)
        state.sums = EpochMetrics()
        warnings = state.monitor.after_epoch(row["class_error"])
        best = best_of(state.rows, evaluator.best)
        if self.folder:
            self.folder.write_weights(self.weights(), best=best is row or best is None)
            self.folder.write_rows(state.rows, evaluator.names, best)
        self.save()
        release_free_memory()
        self.listener.epoch(row, best=best is row and (row[evaluator.best] or 0) > 0)
        for warning in warnings:
            self._warn(warning)

    def _evaluate(self, interrupts: Interrupts) -> tuple[Mapping[str, float], float | None]:
        """Return the metrics and the validation loss; write the figure and the matching. Raises Interrupted."""
        checkpoint, truth, val = self.weights(), self.data.truth, self.data.val
        # Each process has its own batch norm statistics: all use those of the first, which are the ones saved.
        distributed.broadcast(checkpoint.tensors.values())
        model = None if self.trainer.ema else self.model.eval()
        detector = Detector(checkpoint, self.device, self.settings.precision, model)
        mapping = map_classes(checkpoint.classes, truth.classes)
        reporter = InterruptibleReporter(self.reporter, interrupts)
        try:
            detected = detect_split(detector, truth, mapping, batch_size=self.settings.batch_size, reporter=reporter)
        except RuntimeError:
            # An interrupted process no longer answers the others, which are interrupted too.
            if distributed.world_size() == 1 or interrupts.requested_exit_code() is None:
                raise
            raise Interrupted from None
        truth = readable(truth, detected, skip_bad=False)
        annotations = annotate(val, checkpoint.classes)
        if self.folder:
            self.folder.write_image(predictions_figure(truth, detected.results), PREDICTIONS)
            if self.loss.matcher is not None:
                epoch = len(self.state.rows) + 1
                matching_history.append(self.folder.path, epoch, detector, annotations, self.loss.matcher)
        if self.masks:
            annotations = annotate(val, checkpoint.classes, masks=True)
        return self.evaluator.evaluate(truth, detected.results), validation_loss(detector, annotations, self.loss)

    def weights(self) -> Checkpoint:
        return replace(self.initial.checkpoint, tensors=self.trainer.ema or self.model.state_dict())


@dataclass(frozen=True)
class Measured:
    seconds: float  # of a step
    total_seconds: float
    memory_mb: float | None


def measure(training: Training) -> Measured:
    """Time the second of two steps, since the first includes initialization. This changes the model."""
    loader = training.load()
    batches = [next(loader) for _ in range(training.settings.accumulate)]
    for step in range(2):  # on the same images: a training may have only one step
        start = time.perf_counter()
        training.trainer.step(batches, step)
        seconds = time.perf_counter() - start
    steps = training.order.steps * training.settings.epochs
    return Measured(seconds, seconds * steps, memory_mb(training.device))
