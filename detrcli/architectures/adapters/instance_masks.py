"""RF-DETR with masks: a detector of transformers with a mask head."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrcli.architectures.adapters.architecture import DetectorArchitecture
from detrcli.architectures.adapters.config import ClosedSetConfig
from detrcli.architectures.adapters.families import INSTANCE_FAMILIES
from detrcli.architectures.adapters.network import AdaptedNetwork
from detrcli.architectures.foreign import OwnLoss
from detrcli.config import LossConfig
from detrcli.losses.masks import mask_cost, pairwise_cross_entropy, pairwise_dice
from detrcli.losses.matching import HungarianMatcher
from detrcli.model.masks import QueryMasks, probability_shares
from detrcli.segmentation.instances import InstanceSegmentation
from detrcli.structures import Batch, Output, QueryGroup, Target


@dataclass(frozen=True)
class InstanceConfig(ClosedSetConfig):
    """The config of a detector with masks."""

    families = INSTANCE_FAMILIES


class InstanceNetwork(AdaptedNetwork):
    """A detector with masks, and its own loss of boxes and masks."""

    has_masks = True
    task = "AutoModelForInstanceSegmentation"

    def __init__(self, config: ClosedSetConfig) -> None:
        super().__init__(config)
        self.loss, self.loss_with_masks = self._loss, self.loss
        self.mask_logits: Sequence[Tensor] = ()  # (B, Q, h, w) of each layer
        self.proposal_masks: Tensor | None = None  # (B, Q, h, w)

    @property
    def detector(self) -> nn.Module:
        model: nn.Module = self.network.model
        return model

    def labels(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        if target.masks is None:
            return super().labels(target, batch)
        height, width = batch.images.shape[-2:]
        masks = F.pad(target.masks, (0, width - target.masks.shape[2], 0, height - target.masks.shape[1]))
        return {**super().labels(target, batch), "masks": masks}

    def forward(self, batch: Batch, targets: Sequence[Target] | None = None) -> Output:
        output = super().forward(batch, targets)
        if torch.compiler.is_exporting():
            return output
        # Detached: the loss is in the output, and tensors without a gradient would stop distributed training.
        layers = [logits[:, : self.queries].detach() for logits in self.mask_logits]
        proposals = None if self.proposal_masks is None else [self.proposal_masks[:, : self.queries].detach()]
        self.mask_logits, self.proposal_masks = (), None
        groups = (
            replace(group, mask_logits=proposals) if group.name == "proposals" else group for group in output.others
        )
        decoder = replace(output.decoder, masks=query_masks(layers[-1], batch), mask_logits=layers)
        return replace(output, decoder=decoder, others=tuple(groups))

    def last_layer(self, batch: Batch) -> Output:
        output = self.network(**self.inputs(batch))
        decoder = QueryGroup("decoder", output.logits[None], output.pred_boxes[None])
        return Output(decoder).with_masks(query_masks(output.pred_masks, batch))

    def _record(
        self,
        logits: Tensor,
        labels: Any,
        device: Any,
        boxes: Tensor,
        *more: Any,
        **others: Any,
    ) -> tuple[Any, Any, Any]:
        masks, config, class_layers, box_layers, mask_layers, *proposals = more
        self.mask_logits, self.proposal_masks = mask_layers or [masks], proposals[-1]
        return super()._record(logits, labels, device, boxes, config, class_layers, box_layers, *proposals[:-1])

    def _loss(
        self, logits: Tensor, labels: Any, device: Any, boxes: Tensor, config: Any, *more: Any
    ) -> tuple[Tensor, dict[str, Tensor], Any]:
        """Return the loss of boxes and masks. The masks are those that were recorded last."""
        class_layers, box_layers, *proposals = more
        assert self.proposal_masks is not None
        layers = [masks.float() for masks in self.mask_logits]
        total, parts, auxiliary = self.loss_with_masks(
            logits, labels, device, boxes, layers[-1], config, class_layers, box_layers, layers, *proposals,
            self.proposal_masks.float(),
        )  # fmt: skip
        if not total.dim():
            return total, parts, auxiliary
        # Without an object in the batch the terms of masks are empty, and with them the total.
        parts = {name: value.sum() for name, value in parts.items()}
        # Terms of boxes are 0, but part of the graph: distributed training expects gradients of all outputs.
        classes, boxes = (
            sum(value for name, value in parts.items() if name.startswith(terms))
            for terms in ("loss_ce", ("loss_bbox", "loss_giou"))
        )
        return config.class_loss_coefficient * classes + boxes, parts, auxiliary


def query_masks(logits: Tensor, batch: Batch) -> QueryMasks:
    """Return masks by their logits (B, Q, h, w)."""
    height, width = batch.images.shape[-2:]

    def of_queries(images: Tensor, queries: Tensor) -> Tensor:
        return logits[images, queries]  # (P, h, w)

    def shares(images: Tensor, queries: Tensor) -> Tensor:
        return probability_shares(of_queries(images, queries))  # masks are products of queries and cells

    return QueryMasks((height, width), of_queries, shares)


class InstanceArchitecture(DetectorArchitecture):
    """Detectors of transformers with masks. Their folders have the `model_type` of the detector."""

    name = "transformers-instances"
    config = InstanceConfig
    model_types = ("RfDetrForInstanceSegmentation",)
    network = InstanceNetwork

    def segmentation(self, config: ClosedSetConfig) -> InstanceSegmentation:
        return InstanceSegmentation()

    def make_loss(self, config: ClosedSetConfig, loss: LossConfig) -> OwnLoss:
        """Return the network's loss. Our matcher compares masks at all cells, the network's at random points."""
        own = super().make_loss(config, loss)
        assert own.matcher is not None
        weights = config.library_config()
        masks = [
            mask_cost("mask", float(weights.mask_class_loss_coefficient), pairwise_cross_entropy),
            mask_cost("dice", float(weights.mask_dice_loss_coefficient), pairwise_dice),
        ]
        return replace(own, matcher=HungarianMatcher([*own.matcher.terms, *masks]))


ARCHITECTURE = InstanceArchitecture()
