"""The base class of all detectors, and the box head. The class head is a linear layer, as published."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import is_autocast_available

from detrcli.errors import UsageError
from detrcli.model.backbone import Backbone, Part
from detrcli.structures import Batch, Output, Target

FOCAL_BIAS = math.log(0.01 / 0.99)  # the logit of a probability of 0.01
# The parameters that training leaves unchanged: a part of the backbone, or all but the mask head.
Frozen = Part | Literal["detector"]


class DetectionTransformer(nn.Module, ABC):
    """A detector that predicts classes and boxes in every decoder layer."""

    backbone: Backbone
    not_exportable: ClassVar[str | None] = None  # the reason, if the network cannot be exported
    exports_one_size = False  # whether an exported file takes images of one size
    find_unused_parameters = False  # whether a batch may leave some parameters without gradient
    has_masks = False  # whether queries have masks
    masks_by_corner = False  # see `structures.Masks`
    casts_by_layer = True  # whether single layers can be converted to bf16; otherwise torch's autocast is used

    @abstractmethod
    def forward(self, batch: Batch, targets: Sequence[Target] | None = None) -> Output:
        """Return the predictions for every query and image.

        Targets are given in training, for denoising queries. Noise is drawn from torch's global generator, which
        training seeds for each step.
        """

    def prepare_tracing(self) -> None:
        """Replace tensors by numbers where the control flow depends on their values."""

    def unused_parameters(self) -> Sequence[nn.Parameter]:
        """Return the parameters that no batch gives a gradient to."""
        return ()

    def freeze(self, part: Frozen) -> None:
        """Freeze this part of the backbone and train everything else."""
        if part == "detector":
            raise UsageError("freeze = detector is for models with a mask head, which is then trained alone.")
        self._freeze_backbone(part)

    def _freeze_backbone(self, part: Part) -> None:
        self.backbone.freeze(part)


class _Float32Linear(nn.Linear):
    """A linear layer that computes in float32, also in a model converted by `model.bfloat16()`."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.float(), self.bias.float())


class BoxHead(nn.Module):
    """A 3-layer MLP that predicts boxes as cxcywh in [0, 1]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Float32Linear(dim, dim), _Float32Linear(dim, dim), _Float32Linear(dim, 4)])

    def forward(self, x: Tensor) -> Tensor:
        """Return the boxes (..., 4) of hidden states (..., C)."""
        return self.logits(x).sigmoid()

    def logits(self, x: Tensor) -> Tensor:
        """Return the boxes (..., 4) before the sigmoid, where they can be added to reference boxes."""
        first, second, last = self.layers
        # In float32 also under autocast: bf16 resolves positions only to a hundredth of the image.
        device = x.device.type
        with torch.autocast(device, enabled=False) if is_autocast_available(device) else nullcontext():
            return last(second(first(x.float()).relu()).relu())


@torch.no_grad()
def init_focal_heads(class_head: nn.Linear, box_head: BoxHead, size: float = 0.0) -> None:
    """Initialize heads for focal loss: class probabilities are 0.01, and boxes equal their references.

    `size` is the logit of width and height, for references that are points.
    """
    nn.init.constant_(class_head.bias, FOCAL_BIAS)
    last = cast("nn.Linear", box_head.layers[-1])
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    last.bias[2:] = size
