"""Weights: a model's tensors with all that it takes to use them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from detrcli.architectures import architecture_of
from detrcli.architectures.architecture import Architecture
from detrcli.checkpoints.coco import NAMES, PANOPTIC_NAMES
from detrcli.config import LossConfig, ModelConfig, Preprocessing
from detrcli.errors import WeightsError
from detrcli.losses.loss import Loss
from detrcli.losses.scoring import Scoring
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.model.inspectable import Inspectable
from detrcli.segmentation.maps import Segmentation
from detrcli.structures import Classes
from detrcli.system.text import preview


@dataclass(frozen=True)
class Checkpoint:
    """A model's tensors under our names, how it is built, what its classes mean, what it wants to see."""

    source: str  # what the user called them
    config: ModelConfig
    tensors: Mapping[str, Tensor]
    classes: Classes
    preprocessing: Preprocessing
    loss: LossConfig  # how it was trained

    def __post_init__(self) -> None:
        if len(self.classes) != self.config.classes:
            raise WeightsError(
                f"{self.source}: {len(self.classes)} classes have a name, and the model has {self.config.classes}."
            )

    @property
    def architecture(self) -> Architecture[Any]:
        """Which member of the family it is."""
        return architecture_of(self.config)

    @property
    def scoring(self) -> Scoring:
        """What the numbers of its class head mean."""
        return self.architecture.scoring(self.config)

    @property
    def segmentation(self) -> Segmentation | None:
        """What its queries say of pixels; None where they say nothing."""
        return self.architecture.segmentation(self.config)

    def make_loss(self) -> Loss:
        """The loss that it was trained with."""
        return self.architecture.make_loss(self.config, self.loss)

    def inspect(self, model: DetectionTransformer) -> Inspectable:
        """How to look into a model of these weights."""
        return self.architecture.inspect(model)

    def resized(self, size: int | None = None, max_size: int | None = None) -> "Checkpoint":
        """The same weights, shown pictures of another size."""
        return replace(self, preprocessing=self.preprocessing.with_size(size, max_size))

    def model(self) -> DetectionTransformer:
        """A network with these weights, for inference. It has tensors of its own: training it changes no others."""
        model = self.architecture.unfilled(self.config)
        wanted = model.state_dict()
        explain_mismatch(self.source, wanted, self.tensors)
        broken = [name for name, tensor in self.tensors.items() if not _is_finite(tensor)]
        if broken:
            raise WeightsError(
                f"{self.source}: {len(broken)} tensors hold numbers that are not finite: {preview(sorted(broken), 3)}."
            )
        fitting = {name: tensor.detach().to(wanted[name].dtype, copy=True) for name, tensor in self.tensors.items()}
        model.load_state_dict(fitting, assign=True)
        return model.eval()


def _is_finite(tensor: Tensor) -> bool:
    # A sum is ten times as fast, and only that of very large numbers is not finite though all of them are.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def explain_mismatch(source: str, wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raise a WeightsError that says which tensors do not fit, if any."""
    shapes = [
        f"{name} is {_shape(given[name])} for {_shape(wanted[name])}"
        for name in wanted.keys() & given.keys()
        if given[name].shape != wanted[name].shape
    ]
    differences = {
        "missing": wanted.keys() - given.keys(),
        "left over": given.keys() - wanted.keys(),
        "of another shape": shapes,
    }
    differing = [f"{len(names)} {what}: {preview(sorted(names), 3)}" for what, names in differences.items() if names]
    if differing:
        raise WeightsError(f"{source}: the tensors do not fit the model. " + "; ".join(differing) + ".")


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))


def classes_by_index(count: int) -> Classes:
    """Classes of weights that do not name them: COCO's where there are as many, things or panoptic; else numbers."""
    coco = {len(names): names for names in (NAMES, PANOPTIC_NAMES)}
    names = coco.get(count) or [f"class {index}" for index in range(count)]
    # Of COCO's panoptic classes those that COCO's boxes know are things.
    things = np.arange(count) < len(NAMES) if names is PANOPTIC_NAMES else None
    return Classes(ids=np.arange(count), names=np.array(names), things=things)
