"""A training step: forward pass, loss, backward pass, and update of the weights by AdamW."""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW

from detrcli.data.dataset import Examples
from detrcli.errors import DivergedError, UsageError
from detrcli.losses.criterion import Loss, LossBreakdown, StepNormalizers, class_error
from detrcli.messages import argument
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.render.plot import LOSS
from detrcli.structures import Output, Prediction, Target
from detrcli.system import distributed
from detrcli.system.devices import autocast, exact_float32
from detrcli.system.distributed import mix_seeds
from detrcli.training.settings import Settings

BACKBONE = "backbone"  # the parameter group with a learning rate of its own
DROP_AFTER, DROP = 2 / 3, 0.1  # a share of the epochs, and a factor of the learning rate; published: after 200 of 300
MAX_OVERFLOWS = 30  # consecutive steps that fp16 may skip; each halves the loss scale


class AnotherDivergedError(DivergedError):
    """Another process computed numbers that are not finite."""


@dataclass(frozen=True)
class StepResult:
    """The result of a step in this process.

    `numbers` are sums over the accumulated batches: `loss`, weighted, of all layers; its unweighted terms, `loss_NAME`;
    if the loss reports its matching, the count of `matched` queries in the last layer, and of those with a `wrong`
    class. `norm` is that of the gradient, before clipping.
    """

    images: int
    objects: int
    numbers: Mapping[str, float]
    last: Prediction  # of the last batch


class Trainer:
    """A model with its loss, optimizer, gradient scaler and exponential moving average (EMA)."""

    def __init__(
        self,
        model: DetectionTransformer,
        loss: Loss,
        optimizer: AdamW,
        settings: Settings,
        steps_per_epoch: int,
        device: torch.device,
    ) -> None:
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.settings, self.steps_per_epoch, self.device = settings, steps_per_epoch, device
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
        self.overflows = 0
        self.ema: dict[str, Tensor] | None = (
            {name: value.detach().clone() for name, value in model.state_dict().items()} if settings.ema > 0 else None
        )
        # Running statistics of batch norms, which change in the forward pass.
        self._statistics = [
            buffer
            for module in model.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            for buffer in module.buffers()
        ]
        self._replica = _distributed_model(model, device) if distributed.world_size() > 1 else model
        if settings.compile and model.has_masks:
            raise UsageError(f"{argument('compile', 'true')}: not supported for models with a mask head.")
        self._compute = torch.compile(self._replica) if settings.compile else self._replica

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "ema": self.ema,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "overflows": self.overflows,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            for name, value in state["ema"].items():
                self.ema[name].copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.overflows = state["overflows"]

    def step(self, batches: Sequence[Examples], step: int) -> StepResult:
        """Train on the accumulated batches of a step. If it raises DivergedError, the model has not changed."""
        before = [buffer.clone() for buffer in self._statistics]
        try:
            with exact_float32():
                return self._step(batches, step)
        except DivergedError:
            for buffer, value in zip(self._statistics, before, strict=True):
                buffer.copy_(value)
            raise

    def _step(self, batches: Sequence[Examples], step: int) -> StepResult:
        # Dropout depends only on seed, step and process, so that resuming needs no random state.
        torch.manual_seed(mix_seeds(self.settings.seed, step, distributed.rank()))
        factor = learning_rate_factor(self.settings, step, self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = factor * group["base"]  # set by make_optimizer
        self.model.train()
        self.optimizer.zero_grad()

        targets = [[target.to(self.device) for target in batch.targets] for batch in batches]
        normalizers: StepNormalizers | None = None
        numbers: list[dict[str, Tensor]] = []  # of each batch
        for i, (batch, own) in enumerate(zip(batches, targets, strict=True)):
            with ExitStack() as stack:
                # Gradients are averaged over the processes only once, in the backward pass of the last batch.
                if i + 1 < len(batches) and isinstance(self._replica, DistributedDataParallel):
                    stack.enter_context(self._replica.no_sync())
                with autocast(self.settings.precision, self.device):
                    output: Output = self._compute(batch.batch.to(self.device), own)
                if normalizers is None:  # the same for all batches of the step
                    normalizers = self.loss.normalizers(output, targets)
                breakdown = self._loss(output, own, normalizers)
                self.scaler.scale(breakdown.total).backward()  # type: ignore[no-untyped-call]  # untyped in torch
            numbers.append(self._numbers(output, breakdown, own))

        self.scaler.unscale_(self.optimizer)
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(trained, self.settings.grad_clip or torch.inf)
        # One transfer of all numbers; only this and the matching wait for the GPU.
        flat = [(name, value.float()) for batch in [*numbers, {"norm": norm}] for name, value in batch.items()]
        sums: dict[str, float] = {}
        for (name, _), value in zip(flat, torch.stack([value for _, value in flat]).tolist(), strict=True):
            sums[name] = sums.get(name, 0.0) + value
        if distributed.maximum(not math.isfinite(sums["loss"])):
            if math.isfinite(sums["loss"]):
                raise AnotherDivergedError("the loss is not finite in another process")
            raise DivergedError(f"the loss is {sums['loss']}")
        self._update(step, sums["norm"])
        return StepResult(
            images=sum(len(batch.targets) for batch in batches),
            objects=sum(len(target) for batch in targets for target in batch),
            numbers=sums,
            last=Prediction(output.last.logits.detach().float(), output.last.boxes.detach()),
        )

    def _loss(self, output: Output, targets: Sequence[Target], normalizers: StepNormalizers) -> LossBreakdown:
        """Compute the loss. If the predictions of one process are not finite, all processes raise DivergedError."""
        error = breakdown = None
        try:
            breakdown = self.loss.compute_loss(output, targets, normalizers)
        except DivergedError as not_finite:
            error = not_finite
        if distributed.maximum(error is not None):
            raise error or AnotherDivergedError("the loss is not finite in another process")
        assert breakdown is not None
        return breakdown

    def _numbers(self, output: Output, breakdown: LossBreakdown, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Return the `numbers` of a StepResult for a batch, without `norm`."""
        numbers = {"loss": breakdown.total, **{LOSS + name: part for name, part in breakdown.parts.items()}}
        decoder = output.decoder
        if (match := breakdown.matches.get(decoder.name)) is not None:
            matched = (match.layers == len(decoder) - 1).sum()  # pairs of the last layer
            numbers["matched"] = matched
            numbers["wrong"] = class_error(self.loss.scoring, decoder, match, targets) / 100 * matched  # from percent
        return {name: value.detach() for name, value in numbers.items()}

    def _update(self, step: int, norm: float) -> None:
        if not math.isfinite(norm):
            # This is how fp16 finds its loss scale: the scaler skips the step and halves the scale.
            self.overflows += 1
            if not self.scaler.is_enabled() or self.overflows > MAX_OVERFLOWS:
                raise DivergedError(f"the norm of the gradient is {norm}")
        else:
            self.overflows = 0
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is None:
            return
        # A smaller decay at first, so that the initial weights are forgotten sooner.
        decay = min(self.settings.ema, (1 + step) / (10 + step))
        state = self.model.state_dict()
        averaged = [name for name, value in state.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.ema[name] for name in averaged], [state[name] for name in averaged], 1 - decay)
        for name in state.keys() - averaged:
            self.ema[name].copy_(state[name])


def make_optimizer(groups: Mapping[str, Sequence[nn.Parameter]], settings: Settings, *, fresh_backbone: bool) -> AdamW:
    """Create the optimizer. By default a trained backbone has a tenth of the learning rate."""
    lr_backbone = settings.lr_backbone
    if lr_backbone is None:
        lr_backbone = settings.lr if fresh_backbone else settings.lr / 10
    param_groups: list[dict[str, Any]] = []
    for name, parameters in groups.items():
        lr = lr_backbone if name == BACKBONE else settings.lr
        split = [(list(parameters), settings.weight_decay)]
        if settings.weight_decay_on == "matrices":
            matrices, vectors = ([p for p in parameters if (p.dim() > 1) == matrix] for matrix in (True, False))
            split = [(matrices, settings.weight_decay), (vectors, 0.0)]
        group = {"name": name, "lr": lr, "base": lr}
        param_groups += [{**group, "params": params, "weight_decay": decay} for params, decay in split if params]
    # fused: a single pass over the weights instead of seven
    return AdamW(param_groups, betas=(0.9, settings.beta2), fused=True)


def learning_rate_factor(settings: Settings, step: int, steps_per_epoch: int) -> float:
    """Return the factor of the base learning rate in a step."""
    if step < settings.warmup:
        return (step + 1) / (settings.warmup + 1)
    if settings.schedule == "cosine":
        end = settings.epochs * steps_per_epoch
        return 0.5 * (1 + math.cos(math.pi * (step - settings.warmup) / max(1, end - settings.warmup)))
    return DROP if step // steps_per_epoch >= round(DROP_AFTER * settings.epochs) else 1.0


def _distributed_model(model: DetectionTransformer, device: torch.device) -> DistributedDataParallel:
    unused = set(map(id, model.unused_parameters()))
    names = [name for name, parameter in model.named_parameters() if id(parameter) in unused]
    # Otherwise DDP would wait for gradients that are never computed.
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)  # type: ignore[no-untyped-call]  # untyped in torch
    return DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        find_unused_parameters=model.find_unused_parameters,
    )
