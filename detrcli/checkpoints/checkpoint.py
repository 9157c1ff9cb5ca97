"""A checkpoint: a model's tensors, and everything needed to use them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from torch import Tensor

from detrcli.architectures.architecture import Architecture
from detrcli.checkpoints.coco import NAMES, PANOPTIC_NAMES
from detrcli.config import LossConfig, ModelConfig, Preprocessing
from detrcli.errors import WeightsError
from detrcli.losses.criterion import Loss
from detrcli.losses.scoring import Scoring
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.model.inspectable import Inspectable
from detrcli.segmentation.maps import Segmentation
from detrcli.structures import Classes
from detrcli.system.text import preview


@dataclass(frozen=True)
class Checkpoint:
    """A model's tensors under our names, its config, classes, preprocessing and loss."""

    source: str  # as the user named it
    architecture: Architecture[Any]
    config: ModelConfig
    tensors: Mapping[str, Tensor]
    classes: Classes
    preprocessing: Preprocessing
    loss: LossConfig  # of its training

    def __post_init__(self) -> None:
        if len(self.classes) != self.config.classes:
            raise WeightsError(
                f"{self.source}: {len(self.classes)} class names for a model with {self.config.classes} classes."
            )

    @property
    def scoring(self) -> Scoring:
        """The interpretation of the class logits."""
        return self.architecture.scoring(self.config)

    @property
    def segmentation(self) -> Segmentation | None:
        """How masks and maps are made of the output; None for a model without masks."""
        return self.architecture.segmentation(self.config)

    def make_loss(self) -> Loss:
        """Return the loss of its training."""
        return self.architecture.make_loss(self.config, self.loss)

    def inspect(self, model: DetectionTransformer) -> Inspectable:
        """Return access to the attention and the stages of a model of this checkpoint."""
        return self.architecture.inspect(model)

    def resized(self, size: int | None = None, max_size: int | None = None) -> Self:
        """Return the checkpoint with another input size."""
        return replace(self, preprocessing=self.preprocessing.with_size(size, max_size))

    def model(self) -> DetectionTransformer:
        """Return a model in eval mode. Its tensors are copies: training it does not change the checkpoint."""
        model = self.architecture.unfilled(self.config)
        wanted = model.state_dict()
        check_fit(self.source, wanted, self.tensors)
        broken = [name for name, tensor in self.tensors.items() if not _is_finite(tensor)]
        if broken:
            raise WeightsError(
                f"{self.source}: {len(broken)} tensors contain numbers that are not finite: "
                f"{preview(sorted(broken), 3)}."
            )
        fitting = {name: tensor.detach().to(wanted[name].dtype, copy=True) for name, tensor in self.tensors.items()}
        model.load_state_dict(fitting, assign=True)
        return model.eval()


def _is_finite(tensor: Tensor) -> bool:
    # A sum is ten times as fast. For very large numbers it can be infinite although all of them are finite.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def check_fit(source: str, wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raise WeightsError with the names of the tensors that do not fit the wanted ones, if any."""
    shapes = [
        f"{name} is {_shape(given[name])} instead of {_shape(wanted[name])}"
        for name in wanted.keys() & given.keys()
        if given[name].shape != wanted[name].shape
    ]
    differences = {
        "missing": wanted.keys() - given.keys(),
        "left over": given.keys() - wanted.keys(),
        "of another shape": shapes,
    }
    differing = [f"{len(names)} {kind}: {preview(sorted(names), 3)}" for kind, names in differences.items() if names]
    if differing:
        raise WeightsError(f"{source}: the tensors do not fit the model. " + "; ".join(differing) + ".")


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))


def classes_by_index(count: int) -> Classes:
    """Return the classes of weights without names: COCO's or COCO panoptic's if there are as many, else numbers."""
    coco = {len(names): names for names in (NAMES, PANOPTIC_NAMES)}
    names = coco.get(count) or [f"class {index}" for index in range(count)]
    things = np.arange(count) < len(NAMES) if names is PANOPTIC_NAMES else None
    return Classes(ids=np.arange(count), names=np.array(names), things=things)
