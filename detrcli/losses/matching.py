"""The bipartite matching: which query answers for which object (section 3.1 of the paper)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detrcli.boxes import corners, generalised_iou
from detrcli.config import MatchingConfig
from detrcli.errors import DataError, DivergedError
from detrcli.structures import Match, Prediction, Target


@dataclass(frozen=True)
class Costs:
    """The terms of the matching cost, unweighted, between each object and the Q queries of its own image."""

    classes: Tensor  # (L, T, Q), minus the probability of the object's class
    l1: Tensor  # (L, T, Q), of cx, cy, w, h
    giou: Tensor  # (L, T, Q), minus the generalised IoU

    def total(self, config: MatchingConfig) -> Tensor:
        """The weighted sum, (L, T, Q)."""
        return config.cost_class * self.classes + config.cost_l1 * self.l1 + config.cost_giou * self.giou


def costs(logits: Tensor, boxes: Tensor, targets: Sequence[Target], config: MatchingConfig) -> Costs:
    """The cost terms of logits (L, B, Q, K + 1) and boxes (L, B, Q, 4), in float32 whatever came in.

    The T objects of the batch stand one after the other, image by image. Each meets only the queries of its
    own image, so the work grows with T and not with B * T.
    """
    image = torch.arange(len(targets), device=logits.device).repeat_interleave(
        torch.tensor([len(target.labels) for target in targets], device=logits.device)
    )  # (T,)
    label = torch.cat([target.labels for target in targets])  # (T,)
    wanted = torch.cat([target.boxes for target in targets]).float()  # (T, 4)

    if config.class_cost == "log":
        merit = logits.float().log_softmax(-1)
    else:
        merit = logits.float().softmax(-1)  # (L, B, Q, K + 1)
    # "No object" is cut off: no object may have it as its label.
    merit = merit[..., :-1].transpose(2, 3)[:, image, label]  # (L, T, Q)

    predicted = boxes.float()[:, image]  # (L, T, Q, 4)
    wanted = wanted[:, None]  # (T, 1, 4)
    return Costs(
        classes=-merit,
        l1=(predicted - wanted).abs().sum(-1),
        giou=-generalised_iou(corners(predicted), corners(wanted)),
    )


class Matcher:
    """Finds the pairs of every decoder layer of a batch."""

    def __init__(self, config: MatchingConfig | None = None) -> None:
        self.config = config or MatchingConfig()

    @torch.no_grad()
    def __call__(self, predictions: Sequence[Prediction], targets: Sequence[Target]) -> list[Match]:
        """A Match per prediction. `matching = "last"` gives all of them the last one's pairs."""
        layers = predictions if self.config.matching == "each" else predictions[-1:]
        logits = torch.stack([layer.logits for layer in layers])  # (L, B, Q, K + 1)
        boxes = torch.stack([layer.boxes for layer in layers])  # (L, B, Q, 4)
        cost = costs(logits, boxes, targets, self.config).total(self.config)  # (L, T, Q)

        # One transfer for all layers and images. EpochMetrics go with it, since an image without objects has no cost
        # that would show that its prediction is not finite.
        sums = logits.float().sum((2, 3)) + boxes.float().sum((2, 3))  # (L, B)
        numbers = torch.cat([cost.flatten(), sums.flatten()]).cpu().numpy()
        if not np.isfinite(numbers).all():
            _name_what_is_not_finite(logits, boxes, targets)

        counts = [len(target.labels) for target in targets]
        starts = np.cumsum([0, *counts])
        pairs = []  # for each layer and image: (3, M)
        for layer_cost in numbers[: cost.numel()].reshape(cost.shape):
            for image, start in enumerate(starts[:-1]):
                # With more objects than queries, those go without whose absence makes the rest cheapest.
                objects, queries = linear_sum_assignment(layer_cost[start : starts[image + 1]])
                pairs.append(np.stack([np.full_like(queries, image), queries, objects + start]))

        # Every layer has the same number of pairs, and one copy brings them all to the device.
        flat = torch.from_numpy(np.concatenate(pairs, axis=1)).to(logits.device)  # (3, L * M)
        layered = flat.view(3, len(layers), flat.shape[1] // len(layers))  # (3, L, M)
        matches = [Match(*layer) for layer in layered.unbind(1)]
        return matches if self.config.matching == "each" else matches * len(predictions)


def _name_what_is_not_finite(logits: Tensor, boxes: Tensor, targets: Sequence[Target]) -> None:
    for image, target in enumerate(targets):
        # Far outside [0, 1] the areas and so the costs overflow.
        if not (target.boxes.abs() < 1e6).all():
            raise DataError(
                f"The target boxes of image {image} of the batch are not all finite numbers in [0, 1]."
            )
    for what, values in (("logits", logits), ("boxes", boxes)):
        broken = (~values.isfinite()).flatten(2).any(-1).any(0).nonzero()  # (?, 1)
        if len(broken):
            raise DivergedError(
                f"The predicted {what} of image {broken[0].item()} of the batch are not finite numbers.\n"
                "The training has diverged: lower the learning rate, or look for broken data."
            )
