"""A network of transformers as one of ours: pictures in, a prediction of every decoder layer out."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detrcli.architectures.adapters.base import TransformersNetwork
from detrcli.architectures.adapters.config import AdaptedConfig
from detrcli.architectures.adapters.families import ClosedSet
from detrcli.architectures.adapters.library import the_library
from detrcli.architectures.own_loss import TOTAL
from detrcli.structures import Batch, Match, Output, QueryGroup, Target


@dataclass(frozen=True)
class Answers:
    """What a network hands to its own loss. Which axis counts the layers, the family knows."""

    logits: Tensor  # (B, Q, R)
    boxes: Tensor  # (B, Q, 4)
    all_logits: Tensor | None
    all_boxes: Tensor | None
    proposed_logits: Tensor | None  # (B, Q, R)
    proposed_boxes: Tensor | None  # (B, Q, 4)


class Listener:
    """Stands where a network calls its loss: there all families say what every layer of theirs answers."""

    def __init__(self, loss: Callable[..., Any]) -> None:
        self.loss = loss
        self.wanted = False  # whether it is computed, or only listened to
        self.heard: Answers | None = None
        # All layers' logits and boxes (L, B, Q, ...), where the network itself does not hand them over.
        self.layers: Callable[[], tuple[Tensor, Tensor]] | None = None
        self.auxiliary = True  # whether the loss takes them all

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
        classes, coords = outputs_class, outputs_coord
        if classes is None and self.layers is not None:
            classes, coords = self.layers()
            if self.auxiliary:
                outputs_class, outputs_coord = classes, coords
                config = copy.copy(config)
                config.auxiliary_loss = True
        self.heard = Answers(
            logits,
            boxes,
            classes,
            coords,
            more.get("enc_topk_logits", enc_outputs_class),
            more.get("enc_topk_bboxes", enc_outputs_coord),
        )
        if not self.wanted:
            return None, None, None
        if enc_outputs_class is not None:
            more |= {"enc_outputs_class": enc_outputs_class, "enc_outputs_coord": enc_outputs_coord}
        with torch.autocast(device.type, enabled=False):  # in float32, as ours
            return self.loss(
                *_float32((logits, labels, device, boxes, config, outputs_class, outputs_coord)), **_float32(more)
            )


def _float32(values: Any) -> Any:
    """Numbers of half the precision as whole ones, however deep they lie."""
    if isinstance(values, Tensor):
        return values.float() if values.is_floating_point() else values
    if isinstance(values, dict):
        return {key: _float32(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(_float32(value) for value in values)
    return values


class AdaptedNetwork(TransformersNetwork):
    """The network, and the loss that it has itself.

    In training, and where targets are given, the output also holds the groups that its loss supervises beside the
    decoder's; in training its loss stands among what is named.
    """

    family: ClosedSet

    def __init__(self, config: AdaptedConfig) -> None:
        super().__init__(the_library().AutoModelForObjectDetection, config.numbers, config.family)
        self.queries = config.queries
        self.listener = Listener(self.network.loss_function)
        self.listener.auxiliary = self.family.auxiliary
        self.network.loss_function = self.listener

    def forward(self, batch: Batch, targets: Sequence[Target] | None = None) -> Output:
        given: dict[str, Any] = {"pixel_values": batch.images}
        if self.family.masked and batch.padding is not None:
            given["pixel_mask"] = (~batch.padding).long()
        if torch.compiler.is_exporting():
            found = self.network(**given)
            return Output(QueryGroup("decoder", found.logits[None], found.pred_boxes[None]))
        labels = [{"class_labels": one.labels, "boxes": one.boxes} for one in targets or ()]
        self.listener.wanted = self.training and targets is not None
        with self._as_in_training(denoising=bool(labels)), self._layers_by_hand():
            found = self.network(**given, labels=labels)
        heard, self.listener.heard = self.listener.heard, None
        assert heard is not None
        noised = getattr(found, "denoising_meta_values", None)
        others = [*_proposals(heard, self.queries), *self._denoising(heard, noised, targets)]
        named = {} if found.loss is None else {TOTAL: found.loss, **found.loss_dict}
        logits, boxes = self._layers(heard)
        first = 0 if noised is None else noised["dn_num_split"][0]
        own = slice(first, first + self.queries)  # behind them other groups of the same queries may follow
        return Output(QueryGroup("decoder", logits[:, :, own], boxes[:, :, own]), tuple(others), named)

    def _layers(self, heard: Answers) -> tuple[Tensor, Tensor]:
        """Logits (L, B, Q, R) and boxes (L, B, Q, 4) of all its queries."""
        if heard.all_logits is None or heard.all_boxes is None:
            return heard.logits[None], heard.boxes[None]
        logits, boxes = heard.all_logits, heard.all_boxes
        if self.family.layers == "second":
            logits, boxes = logits.transpose(0, 1), boxes.transpose(0, 1)
        # Some begin with an answer before the first layer; some go no further than a layer before the last.
        before = max(0, len(logits) - len(self.modules_of(self.family.decoder)))
        last = int(getattr(self.network, "eval_idx", len(logits) - before - 1))
        return logits[before : before + last + 1], boxes[before : before + last + 1]

    @contextmanager
    def _layers_by_hand(self) -> Iterator[None]:
        """What the heads say of every layer's hidden states, normalised as the paper has it, for the listener."""
        if not self.family.norm:
            yield
            return
        network: Any = self.network
        (norm,) = self.modules_of(self.family.norm)
        hidden: list[Tensor] = []  # (B, Q, C) of each layer
        centres: list[Tensor] = []  # (Q, B, 2), from where boxes are told in Conditional DETR

        def heard(_module: nn.Module, _args: Any, output: Any) -> None:
            hidden.append(output if isinstance(output, Tensor) else output[0])

        def decoded(_module: nn.Module, _args: Any, output: Any) -> None:
            centres.extend([output.reference_points] if hasattr(output, "reference_points") else [])

        def layers() -> tuple[Tensor, Tensor]:
            # Of all tokens, where queries are some of the encoder's: those are the last ones.
            states = norm(torch.stack(hidden))[:, :, -self.queries :]  # (L, B, Q, C)
            boxes = network.bbox_predictor(states)
            for places in centres:
                x, y = places.transpose(0, 1).clamp(1e-5, 1 - 1e-5).logit().unbind(-1)  # each (B, Q)
                boxes = boxes + torch.stack([x, y, torch.zeros_like(x), torch.zeros_like(x)], -1)
            return network.class_labels_classifier(states), boxes.sigmoid()

        self.listener.layers = layers
        handles = [module.register_forward_hook(heard) for module in self.modules_of(self.family.decoder)]
        handles += [module.register_forward_hook(decoded) for module in self.modules_of("model.decoder")]
        try:
            yield
        finally:
            self.listener.layers = None
            for handle in handles:
                handle.remove()

    def _denoising(
        self, heard: Answers, noised: Mapping[str, Any] | None, targets: Sequence[Target] | None
    ) -> Iterator[QueryGroup]:
        if noised is None or targets is None:
            return
        logits, boxes = self._layers(heard)
        count = noised["dn_num_split"][0]
        starts = torch.tensor([len(target) for target in targets]).cumsum(0).tolist()
        pairs = [
            (image, query, start - len(target) + number % len(target))
            for image, (target, start) in enumerate(zip(targets, starts, strict=True))
            for number, query in enumerate(noised["dn_positive_idx"][image].tolist())
        ]
        found = torch.tensor(pairs, device=logits.device).view(-1, 3).T  # (3, P)
        layers = torch.arange(len(logits), device=logits.device).repeat_interleave(len(pairs))
        match = Match(layers, *found.repeat(1, len(logits)))
        yield QueryGroup("denoising", logits[:, :, :count], boxes[:, :, :count], match=match)

    @contextmanager
    def _as_in_training(self, *, denoising: bool) -> Iterator[None]:
        """Some answer with all layers, and to denoising queries, in training only: two of their modules are told so.

        Those have nothing else that depends on it; dropout and norms are the business of the modules below.
        """
        if self.training or not self.family.denoises:
            yield
            return
        told = [self.network.model.decoder, *([self.network.model] if denoising else [])]
        for module in told:
            module.training = True
        try:
            yield
        finally:
            for module in told:
                module.training = False


def _proposals(heard: Answers, queries: int) -> Iterator[QueryGroup]:
    if heard.proposed_logits is not None and heard.proposed_boxes is not None:
        logits, boxes = heard.proposed_logits[:, :queries], heard.proposed_boxes[:, :queries]
        yield QueryGroup("proposals", logits[None], boxes[None])
