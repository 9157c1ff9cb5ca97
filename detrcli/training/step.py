"""One step: predictions, losses, gradients, and the weights a little better."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW

from detrcli.data.dataset import Examples
from detrcli.errors import DivergedError, UsageError
from detrcli.losses.criterion import class_error
from detrcli.losses.loss import Loss, LossBreakdown, StepNormalizers
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.structures import Output, Prediction, Target
from detrcli.system import distributed
from detrcli.system.devices import autocast, exact_float32
from detrcli.system.distributed import mix_seeds
from detrcli.training.optimiser import rate, set_rate
from detrcli.training.settings import Settings

PART = "part "  # before the name of a part of the loss, among the numbers of a step
MOST_OVERFLOWS = 30  # steps in a row that fp16 may throw away; its scale halves with each


class AnotherDivergedError(DivergedError):
    """Another process met numbers that are not finite; our own batch is not to blame."""


@dataclass(frozen=True)
class StepResult:
    """What a step saw and cost, on this process; sums over its accumulated batches."""

    pictures: int
    objects: int
    loss: float  # all layers, weighted: what was minimised
    parts: Mapping[str, float]  # of the loss, by name, not weighted
    matched: int  # pairs of the last layer, where the loss knows them
    wrong: float  # of them with another class on top
    norm: float  # of the gradient, before it was clipped
    last: Prediction  # of the last batch


class Trainer:
    """A model with all that changes it."""

    def __init__(
        self,
        model: DetectionTransformer,
        loss: Loss,
        optimiser: AdamW,
        settings: Settings,
        steps_per_epoch: int,
        device: torch.device,
    ) -> None:
        self.model, self.loss, self.optimiser = model, loss, optimiser
        self.settings, self.steps_per_epoch, self.device = settings, steps_per_epoch, device
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
        self.overflows = 0
        # The running mean of everything that the state dict holds, where it is asked for.
        self.ema: dict[str, Tensor] | None = (
            {name: value.detach().clone() for name, value in model.state_dict().items()} if settings.ema > 0 else None
        )
        # What changes in a forward pass already.
        self._statistics = [
            buffer
            for module in model.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            for buffer in module.buffers()
        ]
        self._replica = _replica(model, device) if distributed.world_size() > 1 else model
        if settings.compile and model.has_masks:
            raise UsageError("compile: a model with a mask head is not compiled. Leave it out.")
        self._compute = torch.compile(self._replica) if settings.compile else self._replica

    def step(self, batches: Sequence[Examples], step: int) -> StepResult:
        """Learn from the batches that make one step. Where it diverges, everything is as it was before."""
        before = [buffer.clone() for buffer in self._statistics]
        try:
            with exact_float32():
                return self._step(batches, step)
        except DivergedError:
            for buffer, value in zip(self._statistics, before, strict=True):
                buffer.copy_(value)
            raise

    def _step(self, batches: Sequence[Examples], step: int) -> StepResult:
        # Dropout depends on the step alone; so going on needs no memory of what was drawn.
        torch.manual_seed(mix_seeds(self.settings.seed, step, distributed.rank()))
        set_rate(self.optimiser, rate(self.settings, step, self.steps_per_epoch))
        self.model.train()
        self.optimiser.zero_grad()

        targets = [[target.to(self.device) for target in batch.targets] for batch in batches]
        normalizers: StepNormalizers | None = None
        seen: list[dict[str, Tensor]] = []  # of each batch
        for i, (batch, wanted) in enumerate(zip(batches, targets, strict=True)):
            with self._unsynchronised(i + 1 < len(batches)):
                output = self._forward(batch, wanted)
                if normalizers is None:  # the same for all batches of the step
                    normalizers = self.loss.normalizers(output, targets)
                breakdown = self._loss(output, wanted, normalizers)
                self.scaler.scale(breakdown.total).backward()  # type: ignore[no-untyped-call]  # torch says nothing of it
            seen.append(self._numbers(output, breakdown, wanted))

        self.scaler.unscale_(self.optimiser)
        trained = [p for group in self.optimiser.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(trained, self.settings.grad_clip or torch.inf)
        sums = self._read([*seen, {"norm": norm}])
        if distributed.maximum(not math.isfinite(sums["total"])):
            if math.isfinite(sums["total"]):
                raise AnotherDivergedError("The loss is not finite in another process.")
            raise DivergedError(f"The loss is {sums['total']}.")
        self._update(step, sums["norm"])
        return StepResult(
            pictures=sum(len(batch.targets) for batch in batches),
            objects=sum(len(target) for batch in targets for target in batch),
            loss=sums["total"],
            parts={name.removeprefix(PART): value for name, value in sums.items() if name.startswith(PART)},
            matched=round(sums.get("matched", 0)),
            wrong=sums.get("wrong", 0.0),
            norm=sums["norm"],
            last=Prediction(output.last.logits.detach().float(), output.last.boxes.detach()),
        )

    def _forward(self, batch: Examples, targets: Sequence[Target]) -> Output:
        with autocast(self.settings.precision, self.device):
            return cast("Output", self._compute(batch.batch.to(self.device), targets))

    def _loss(self, output: Output, targets: Sequence[Target], normalizers: StepNormalizers) -> LossBreakdown:
        """The loss; where one process cannot match what is not finite, all of them stop here."""
        error = breakdown = None
        try:
            breakdown = self.loss.compute_loss(output, targets, normalizers)
        except DivergedError as not_finite:
            error = not_finite
        if distributed.maximum(error is not None):
            raise error or AnotherDivergedError("The loss is not finite in another process.")
        assert breakdown is not None
        return breakdown

    def _numbers(self, output: Output, breakdown: LossBreakdown, targets: Sequence[Target]) -> dict[str, Tensor]:
        """What a batch adds to the step's result, still on the device."""
        numbers = {PART + name: part for name, part in breakdown.parts.items()}
        numbers["total"] = breakdown.total
        decoder = output.decoder
        if (match := breakdown.matches.get(decoder.name)) is not None:
            pairs = (match.layers == len(decoder) - 1).sum()
            numbers["matched"] = pairs
            numbers["wrong"] = class_error(self.loss.scoring, decoder, match, targets) / 100 * pairs
        return {name: value.detach() for name, value in numbers.items()}

    def _read(self, numbers: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
        """Their sums by name, in one transfer: beside the matching the only one that a GPU is waited for in."""
        flat = [(name, value.float()) for batch in numbers for name, value in batch.items()]
        sums: dict[str, float] = {}
        for (name, _), value in zip(flat, torch.stack([value for _, value in flat]).tolist(), strict=True):
            sums[name] = sums.get(name, 0.0) + value
        return sums

    def _unsynchronised(self, more: bool) -> AbstractContextManager[None]:
        """Gradients are averaged over the processes once, with a step's last batch."""
        if more and isinstance(self._replica, DistributedDataParallel):
            return cast("AbstractContextManager[None]", self._replica.no_sync())
        return nullcontext()

    def _update(self, step: int, norm: float) -> None:
        """Change the weights by their gradients, which had this norm."""
        if not math.isfinite(norm):
            # fp16 looks for its scale so: the scaler passes over such a step and halves it.
            self.overflows += 1
            if not self.scaler.is_enabled() or self.overflows > MOST_OVERFLOWS:
                raise DivergedError(f"The gradient's norm is {norm}.")
        else:
            self.overflows = 0
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.ema is None:
            return
        # Young means forget faster, so that the random start does not linger.
        decay = min(self.settings.ema, (1 + step) / (10 + step))
        state = self.model.state_dict()
        means = [name for name, value in state.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.ema[name] for name in means], [state[name] for name in means], 1 - decay)
        for name in state.keys() - means:
            self.ema[name].copy_(state[name])


def _replica(model: DetectionTransformer, device: torch.device) -> DistributedDataParallel:
    """The model among those of other processes, which average their gradients."""
    without = set(map(id, model.without_gradient()))
    names = [name for name, parameter in model.named_parameters() if id(parameter) in without]
    # Else the processes wait for gradients that never come.
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)  # type: ignore[no-untyped-call]  # torch says nothing of it
    return DistributedDataParallel(
        model, device_ids=[device] if device.type == "cuda" else None, find_unused_parameters=model.may_leave_out
    )
