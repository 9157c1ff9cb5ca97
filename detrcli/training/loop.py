"""The whole training: steps, evaluations, states, from the start or from where it stopped."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from detrcli.data.annotations import annotate
from detrcli.data.dataset import DetectionDataset, Examples, collate_examples, unbroken
from detrcli.errors import DataError, DivergedError, UsageError, loader_was_killed
from detrcli.evaluation.class_mapping import pair
from detrcli.evaluation.metrics import METRICS, Scores, score
from detrcli.evaluation.run import Run, readable, run
from detrcli.inference.detector import Detector
from detrcli.system import distributed
from detrcli.system.allocator import give_back
from detrcli.training import matching_history as matchings
from detrcli.training import run_folder as files
from detrcli.training.interrupts import Interrupts, ignore_signals
from detrcli.training.machine import default_workers, memory_mb
from detrcli.training.monitor import Monitor, more_objects_than_queries
from detrcli.training.optimiser import count, make_optimiser
from detrcli.training.order import Batches, Order
from detrcli.training.pictures import beside_truth, first_batch
from detrcli.training.progress import EpochMetrics, Outcome, Progress, Report
from detrcli.training.run_folder import RunFolder, best_of, since_best
from detrcli.training.settings import Settings
from detrcli.training.setup import Data, Start
from detrcli.training.state import save_state
from detrcli.training.step import AnotherDivergedError, Engine
from detrcli.variants.detr import build_criterion
from detrcli.weights.formats import native
from detrcli.weights.weights import Weights

SAVE = 1.0  # what a process wishes for between two steps, beside the exit code to stop with
DIVERGED = "diverged.pt"


class _Stopped(Exception):  # noqa: N818  # no error
    """An evaluation was interrupted; what came before it is saved."""


class Training:
    """One training: everything that a saved state must give back is an attribute here."""

    def __init__(
        self,
        begun: Start,
        data: Data,
        chosen: Settings,
        device: torch.device,
        folder: RunFolder | None,
        report: Report,
        source: Mapping[str, Any] | None = None,
    ) -> None:
        self.begun, self.data, self.chosen, self.device = begun, data, chosen, device
        self.folder, self.report = folder, report
        self.source = dict(source or {})  # whoever resumes finds here which data is meant
        self.order = Order(
            len(data.train),
            chosen.batch_size,
            chosen.accumulate,
            chosen.seed,
            distributed.rank(),
            distributed.world_size(),
        )
        model = begun.weights.model().to(device)
        model.backbone.freeze(begun.freeze)
        self.model = model
        self.engine = Engine(
            model,
            build_criterion(chosen.loss_config, chosen.matching_config),
            make_optimiser(model, chosen, fresh_backbone=begun.fresh_backbone),
            chosen,
            self.order.steps,
            device,
        )
        self.step = 0  # steps done
        self.rows: list[dict[str, float | None]] = []  # epochs done
        self.sums = EpochMetrics()
        self.monitor = Monitor()
        self.seconds = 0.0  # of the sessions before this one
        self._since = time.perf_counter()
        self._saved = time.perf_counter()

    def groups(self) -> list[tuple[str, int, float | None]]:
        """What is trained: name, parameters, learning rate; None for what stays as it is."""
        trained = [
            (group["name"], count(group["params"]), group["base"])
            for group in self.engine.optimiser.param_groups
        ]
        frozen = count(p for p in self.model.parameters() if not p.requires_grad)
        return [*trained, ("frozen", frozen, None)]

    def summary(self, run: Path) -> str:
        """What begins now, in a line."""
        processes = f" over {self.order.world} processes" if self.order.world > 1 else ""
        done = len(self.rows)
        left = f"done after {done}" if self._finished else f"epochs {done + 1} to {self.chosen.epochs}"
        return (
            f"{run}: {len(self.data.train):,} pictures, {len(self.data.classes)} classes, "
            f"{self.order.step_size} pictures a step{processes}, {self.order.steps:,} steps an epoch, "
            f"{left}"
        )

    def count_queries(self) -> None:
        """Say it where there are too few of them."""
        queries = self.begun.weights.config.queries
        objects = self.data.train.counts
        if crowded := int((objects > queries).sum()):
            self.report.note(more_objects_than_queries(int(objects.max()), crowded, queries))

    # ---- what goes in and out of the state --------------------------------------------------------------

    def state(self, sums: Sequence[EpochMetrics]) -> dict[str, Any]:
        """Everything, in tensors and plain values. What is random follows from the seed and the step."""
        return {
            "settings": asdict(self.chosen),
            "source": self.source,
            "fingerprint": self.data.fingerprint,
            "weights": native.header_of(self.begun.weights),
            "fresh_backbone": self.begun.fresh_backbone,
            "freeze": self.begun.freeze,
            "model": self.model.state_dict(),
            "ema": self.engine.ema,
            "optimiser": self.engine.optimiser.state_dict(),
            "scaler": self.engine.scaler.state_dict(),
            "overflows": self.engine.overflows,
            "step": self.step,
            "sums": [asdict(one) for one in sums],  # of each process
            "rows": self.rows,
            "monitor": asdict(self.monitor),
            "seconds": self.seconds + time.perf_counter() - self._since,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Become what the state was taken of."""
        if len(state["sums"]) != distributed.world_size():
            raise UsageError(
                f"This run was made by {len(state['sums'])} processes, and {distributed.world_size()} would see "
                "other batches. Start as many."
            )
        self.model.load_state_dict(state["model"])
        if self.engine.ema is not None:
            for name, value in state["ema"].items():
                self.engine.ema[name].copy_(value)
        self.engine.optimiser.load_state_dict(state["optimiser"])
        self.engine.scaler.load_state_dict(state["scaler"])
        self.engine.overflows = state["overflows"]
        self.step, self.rows = state["step"], state["rows"]
        self.sums = EpochMetrics(**state["sums"][distributed.rank()])
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
                if code := self._pause(interrupts):
                    break
                if self._epochs_of_steps > len(self.rows):
                    self._end_epoch(interrupts)
                    continue
                if batches is None:
                    batches = self.load()
                self._one_step(batches)
        except _Stopped:
            code = interrupts.code
        except DataError:
            if distributed.world_size() == 1:  # else the others do not know that they should save too
                self.save()
            raise
        except RuntimeError as error:
            # A signal to the whole group may have reached the loader's processes before they could ignore it.
            # Several processes cannot save then: the others do not know that they should, too.
            alone = distributed.world_size() == 1
            if interrupts.code is None or not loader_was_killed(error) or not alone:
                raise
            code = interrupts.code
            self.save()
        best = best_of(self.rows)
        return Outcome(len(self.rows), best, self.seconds + time.perf_counter() - self._since, code)

    @property
    def _epochs_of_steps(self) -> int:
        return self.step // self.order.steps

    @property
    def _finished(self) -> bool:
        done = len(self.rows) >= self.chosen.epochs
        return done or (self.chosen.patience > 0 and since_best(self.rows) >= self.chosen.patience)

    def _pause(self, interrupts: Interrupts) -> int | None:
        """Save where any process wishes so, or was told to stop; the exit code of the latter."""
        due = time.perf_counter() - self._saved > 60 * self.chosen.save_every
        wish = int(distributed.greatest(interrupts.wish() or (SAVE if due and self.folder else 0)))
        if wish:
            self.save()
        return wish if wish > SAVE else None

    def load(self) -> Iterator[Examples]:
        """The batches from here to the end of the last epoch, by one set of loader processes."""
        chosen = self.chosen
        dataset = DetectionDataset(
            self.data.train,
            self.begun.weights.preprocessing,
            augmentation=chosen.augmentation,
            seed=chosen.seed,
        )
        workers = default_workers(self.device) if chosen.workers is None else chosen.workers
        loader: Any = DataLoader(
            dataset,
            batch_sampler=Batches(self.order, self.step, chosen.epochs * self.order.steps),
            num_workers=workers,
            collate_fn=collate_examples,
            worker_init_fn=ignore_signals,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else it would draw from the model's random numbers
        )
        return unbroken(loader)

    def _one_step(self, batches: Iterator[Examples]) -> None:
        began = time.perf_counter()
        seen = [next(batches) for _ in range(self.chosen.accumulate)]
        loaded = time.perf_counter()
        if self.step == 0 and self.folder:
            weights = self.begun.weights
            self.folder.write_picture(
                first_batch(seen[0], weights.classes, weights.preprocessing), files.FIRST_BATCH
            )
        try:
            done = self.engine.step(seen, self.step)
        except DivergedError as error:
            raise self._diverged(seen, error) from error
        ended = time.perf_counter()
        self.sums.add(done, ended - began, loaded - began)
        for note in self.monitor.after_step(self.step, done):
            self.report.note(note)
        self.step += 1
        self.report.step(self._progress())

    def _progress(self) -> Progress:
        sums, steps = self.sums, self.order.steps
        per_step = sums.seconds / sums.steps
        return Progress(
            epoch=(self.step - 1) // steps + 1,
            epochs=self.chosen.epochs,
            done=(self.step - 1) % steps + 1,
            steps=steps,
            loss=sums.loss / sums.steps,
            parts={name: getattr(sums, f"loss_{name}") / sums.steps for name in ("class", "l1", "giou")},
            class_error=sums.class_error,
            pictures_per_second=distributed.world_size() * sums.pictures / sums.seconds,
            waiting=sums.waiting / sums.seconds,
            memory_mb=memory_mb(self.device),
            seconds_left=per_step * (self.chosen.epochs * steps - self.step),
        )

    def _diverged(self, seen: Sequence[Examples], error: DivergedError) -> DivergedError:
        """Keep the state, which is good still, and the batches that broke it, of whichever process."""
        mine = None if isinstance(error, AnotherDivergedError) else _as_plain(seen)
        guilty = next((batches for (batches,) in distributed.gather((mine,)) if batches), None)
        self.save()
        where = ""
        if self.folder:
            torch.save({"step": self.step, "batches": guilty}, self.folder.path / DIVERGED)
            where = f" The state before it and {DIVERGED}, the batch that did it, are in {self.folder.path}."
        ids = ", ".join(str(i) for batch in guilty or [] for i in batch["image_ids"][:4])
        epoch, place = self.order.place(self.step)
        return DivergedError(
            f"Training diverged in epoch {epoch}, step {place + 1} (images {ids}): {str(error).splitlines()[0]}\n"
            f"Start again with a lower --lr, with --set warmup=N, or with precision = fp32 or bf16.{where}"
        )

    # ---- the end of an epoch ----------------------------------------------------------------------------

    def _end_epoch(self, interrupts: Interrupts) -> None:
        epoch, sums = len(self.rows) + 1, self.sums
        evaluated = epoch % self.chosen.eval_every == 0 or epoch == self.chosen.epochs
        scores = None
        if evaluated and len(self.data.truth.images):
            self.save()  # an evaluation that is cut off costs no training
            scores = self._evaluate(interrupts)

        loss, loss_class, loss_l1, loss_giou, matched, wrong = distributed.mean(
            [sums.loss, sums.loss_class, sums.loss_l1, sums.loss_giou, sums.matched, sums.wrong]
        )
        rates = {group["name"]: group["lr"] for group in self.engine.optimiser.param_groups}
        row: dict[str, float | None] = {
            "epoch": epoch,
            "loss": loss / sums.steps,
            "loss_class": loss_class / sums.steps,
            "loss_l1": loss_l1 / sums.steps,
            "loss_giou": loss_giou / sums.steps,
            "class_error": 100 * wrong / max(1, matched),
            "grad_norm": sums.norm / sums.updates if sums.updates else None,
            "lr": rates["transformer"],
            "lr_backbone": rates.get("backbone", 0.0),
            **dict.fromkeys(METRICS),
            **(scores.metrics if scores else {}),
            "pictures_per_second": round(distributed.world_size() * sums.pictures / sums.seconds, 2),
            "waiting": round(sums.waiting / sums.seconds, 4),
            "memory_mb": memory_mb(self.device),
            "seconds": round(self.seconds + time.perf_counter() - self._since, 1),
        }
        self.rows.append(row)
        self.sums = EpochMetrics()
        notes = self.monitor.after_epoch(float(row["class_error"] or 0))
        best = best_of(self.rows)
        if self.folder:
            self.folder.write_weights(self.weights(), best=best is row or best is None)
            self.folder.write_rows(self.rows)
        self.save()
        give_back()
        self.report.epoch(row, best=best is row and (row["AP"] or 0) > 0)
        for note in notes:
            self.report.note(note)

    def weights(self) -> Weights:
        """The weights as they are now, or their running mean."""
        tensors = self.engine.ema or self.model.state_dict()
        # Dropped out is only in training; what is kept is what it is evaluated with.
        return replace(self.begun.weights, tensors=tensors)

    def _evaluate(self, interrupts: Interrupts) -> Scores:
        """The code of `detr eval`, on the validation split."""
        data, weights = self.data, self.weights()
        # Batch norm counts in each process by itself: all evaluate what the first one keeps.
        distributed.broadcast(weights.tensors.values())
        model = weights.model() if self.engine.ema else self.model.eval()
        detector = Detector(model, weights.classes, weights.preprocessing, self.device, self.chosen.precision)
        share = -(-len(data.truth.images) // distributed.world_size())
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            self.report.evaluating(done, share)
            if interrupts.wish():
                raise _Stopped

        try:
            found: Run = run(
                detector,
                data.val,
                data.truth,
                pair(weights.classes, data.truth.classes),
                batch_size=self.chosen.batch_size,
                advance=advance,
            )
        except RuntimeError:
            # Another process that was told to stop, as we were, no longer answers.
            if distributed.world_size() == 1 or interrupts.wish() is None:
                raise
            raise _Stopped from None
        truth = readable(data.truth, found, skip_bad=False)
        if self.folder:
            self.folder.write_picture(beside_truth(data.val, truth, found.results), files.PREDICTIONS)
            matchings.keep(
                self.folder.path,
                len(self.rows) + 1,
                detector,
                annotate(data.val, weights.classes),
                self.chosen.matching_config,
            )
        return score(truth, found.results)


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
