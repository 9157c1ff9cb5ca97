"""Closed-set detectors of transformers as networks of ours: predictions of every decoder layer, and their own loss."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detrcli.architectures.adapters.config import ClosedSetConfig
from detrcli.architectures.adapters.families import ClosedSet
from detrcli.architectures.adapters.library import TransformersNetwork
from detrcli.architectures.foreign import TOTAL
from detrcli.structures import Batch, Match, Output, QueryGroup, Target


@dataclass(frozen=True)
class LossInputs:
    """The predictions that a network passes to its loss function. The family determines the axis of the layers."""

    logits: Tensor  # (B, Q, R)
    boxes: Tensor  # (B, Q, 4)
    all_logits: Tensor | None
    all_boxes: Tensor | None
    proposed_logits: Tensor | None  # (B, Q, R)
    proposed_boxes: Tensor | None  # (B, Q, 4)


class LossRecorder:
    """Replaces a network's loss function, the place where all families have the predictions of every layer."""

    def __init__(self, loss: Callable[..., Any], *, auxiliary: bool) -> None:
        self.loss = loss
        self.auxiliary = auxiliary  # whether the loss takes all layers
        self.enabled = False  # whether the loss is computed, or its inputs only recorded
        self.inputs: LossInputs | None = None
        # Returns logits and boxes (L, B, Q, ...) of all layers, if the network does not pass them.
        self.layers: Callable[[], tuple[Tensor, Tensor]] | None = None

    def __call__(
        self,
        logits: Tensor,
        labels: Any,
        device: torch.device,
        boxes: Tensor,
        config: Any,
        outputs_class: Tensor | None = None,
        outputs_coord: Tensor | None = None,
        enc_outputs_class: Tensor | None = None,
        enc_outputs_coord: Tensor | None = None,
        **more: Any,
    ) -> tuple[Any, Any, Any]:
        all_logits, all_boxes = outputs_class, outputs_coord
        if all_logits is None and self.layers is not None:
            all_logits, all_boxes = self.layers()
            if self.auxiliary:
                outputs_class, outputs_coord = all_logits, all_boxes
                config = copy.copy(config)
                config.auxiliary_loss = True
        self.inputs = LossInputs(
            logits,
            boxes,
            all_logits,
            all_boxes,
            more.get("enc_topk_logits", enc_outputs_class),
            more.get("enc_topk_bboxes", enc_outputs_coord),
        )
        if not self.enabled:
            return None, None, None
        if enc_outputs_class is not None:
            more |= {"enc_outputs_class": enc_outputs_class, "enc_outputs_coord": enc_outputs_coord}
        with torch.autocast(device.type, enabled=False):  # in float32, as our losses
            return self.loss(
                *_to_float32((logits, labels, device, boxes, config, outputs_class, outputs_coord)), **_to_float32(more)
            )


def _to_float32(values: Any) -> Any:
    """Convert all floating-point tensors in nested containers."""
    if isinstance(values, Tensor):
        return values.float() if values.is_floating_point() else values
    if isinstance(values, dict):
        return {key: _to_float32(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(_to_float32(value) for value in values)
    return values


class AdaptedNetwork(TransformersNetwork):
    """A network of transformers with its own loss.

    In training, and with targets, the output also contains the query groups that the loss supervises beside the
    decoder's. In training it contains the loss.
    """

    family: ClosedSet
    task = "AutoModelForObjectDetection"

    def __init__(self, config: ClosedSetConfig) -> None:
        super().__init__(config)
        self.queries = config.queries
        self.recorder = LossRecorder(self.network.loss_function, auxiliary=self.family.auxiliary)
        self.network.loss_function = self.recorder

    def forward(self, batch: Batch, targets: Sequence[Target] | None = None) -> Output:
        inputs: dict[str, Any] = {"pixel_values": batch.images}
        if self.family.masked and batch.padding is not None:
            inputs["pixel_mask"] = (~batch.padding).long()
        if torch.compiler.is_exporting():
            output = self.network(**inputs)
            return Output(QueryGroup("decoder", output.logits[None], output.pred_boxes[None]))
        labels = [{"class_labels": target.labels, "boxes": target.boxes} for target in targets or ()]
        self.recorder.enabled = self.training and targets is not None
        with self._as_in_training(denoising=bool(labels)), self._computing_layers():
            output = self.network(**inputs, labels=labels)
        recorded, self.recorder.inputs = self.recorder.inputs, None
        assert recorded is not None
        denoising = getattr(output, "denoising_meta_values", None)
        others = [*_proposals(recorded, self.queries), *self._denoising(recorded, denoising, targets)]
        named = {} if output.loss is None else {TOTAL: output.loss, **output.loss_dict}
        logits, boxes = self._layers(recorded)
        first = 0 if denoising is None else denoising["dn_num_split"][0]
        matching = slice(first, first + self.queries)  # other groups of the same queries may follow
        return Output(QueryGroup("decoder", logits[:, :, matching], boxes[:, :, matching]), tuple(others), named)

    def _layers(self, recorded: LossInputs) -> tuple[Tensor, Tensor]:
        """Return logits (L, B, Q, R) and boxes (L, B, Q, 4) of all queries."""
        if recorded.all_logits is None or recorded.all_boxes is None:
            return recorded.logits[None], recorded.boxes[None]
        logits, boxes = recorded.all_logits, recorded.all_boxes
        if self.family.layers == "second":
            logits, boxes = logits.transpose(0, 1), boxes.transpose(0, 1)
        # Some have a prediction before the first layer; some stop at a layer before the last.
        before = max(0, len(logits) - len(self.modules_of(self.family.decoder)))
        last = int(getattr(self.network, "eval_idx", len(logits) - before - 1))
        return logits[before : before + last + 1], boxes[before : before + last + 1]

    @contextmanager
    def _computing_layers(self) -> Iterator[None]:
        """Let the recorder apply the heads to every layer's hidden states, normalized as in the paper."""
        if not self.family.norm:
            yield
            return
        network: Any = self.network
        (norm,) = self.modules_of(self.family.norm)
        hidden: list[Tensor] = []  # (B, Q, C) of each layer
        centers: list[Tensor] = []  # (Q, B, 2), to which the boxes of Conditional DETR are relative

        def record_hidden(_module: nn.Module, _args: Any, output: Any) -> None:
            hidden.append(output if isinstance(output, Tensor) else output[0])

        def record_centers(_module: nn.Module, _args: Any, output: Any) -> None:
            centers.extend([output.reference_points] if hasattr(output, "reference_points") else [])

        def layers() -> tuple[Tensor, Tensor]:
            # Queries that are tokens of the encoder are the last ones.
            states = norm(torch.stack(hidden))[:, :, -self.queries :]  # (L, B, Q, C)
            boxes = network.bbox_predictor(states)
            for points in centers:
                x, y = points.transpose(0, 1).clamp(1e-5, 1 - 1e-5).logit().unbind(-1)  # each (B, Q)
                boxes = boxes + torch.stack([x, y, torch.zeros_like(x), torch.zeros_like(x)], -1)
            return network.class_labels_classifier(states), boxes.sigmoid()

        self.recorder.layers = layers
        with ExitStack() as hooks:
            hooks.callback(setattr, self.recorder, "layers", None)
            for module in self.modules_of(self.family.decoder):
                hooks.enter_context(module.register_forward_hook(record_hidden))
            for module in self.modules_of("model.decoder"):
                hooks.enter_context(module.register_forward_hook(record_centers))
            yield

    def _denoising(
        self, recorded: LossInputs, denoising: Mapping[str, Any] | None, targets: Sequence[Target] | None
    ) -> Iterator[QueryGroup]:
        if denoising is None or targets is None:
            return
        logits, boxes = self._layers(recorded)
        count = denoising["dn_num_split"][0]
        ends = torch.tensor([len(target) for target in targets]).cumsum(0).tolist()
        pairs = [
            (image, query, end - len(target) + number % len(target))
            for image, (target, end) in enumerate(zip(targets, ends, strict=True))
            for number, query in enumerate(denoising["dn_positive_idx"][image].tolist())
        ]
        indices = torch.tensor(pairs, device=logits.device).view(-1, 3).T  # (3, P)
        layers = torch.arange(len(logits), device=logits.device).repeat_interleave(len(pairs))
        match = Match(layers, *indices.repeat(1, len(logits)))
        yield QueryGroup("denoising", logits[:, :, :count], boxes[:, :, :count], match=match)

    @contextmanager
    def _as_in_training(self, *, denoising: bool) -> Iterator[None]:
        """Set the mode of the modules that return all layers, and denoising queries, in training only.

        Nothing else in these modules depends on their own mode: dropout and norms are modules below them.
        """
        if self.training or not self.family.denoises:
            yield
            return
        modules = [self.network.model.decoder, *([self.network.model] if denoising else [])]
        for module in modules:
            module.training = True
        try:
            yield
        finally:
            for module in modules:
                module.training = False


def _proposals(recorded: LossInputs, queries: int) -> Iterator[QueryGroup]:
    if recorded.proposed_logits is not None and recorded.proposed_boxes is not None:
        logits, boxes = recorded.proposed_logits[:, :queries], recorded.proposed_boxes[:, :queries]
        yield QueryGroup("proposals", logits[None], boxes[None])
