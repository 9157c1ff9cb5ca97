"""A checkpoint: a model's tensors, and everything needed to use them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from torch import Tensor

from detrcli.architectures.architecture import Architecture
from detrcli.checkpoints.coco import NAMED, NAMES, PANOPTIC_NAMES
from detrcli.config import LossConfig, ModelConfig, Preprocessing
from detrcli.errors import UsageError, WeightsError
from detrcli.losses.criterion import Loss
from detrcli.losses.scoring import Scoring
from detrcli.messages import argument
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.model.inspectable import Inspectable
from detrcli.resize import Resize
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
        sides, resize = self.architecture.input_sides(self.config), self.preprocessing.resize
        if not sides.take(resize):
            raise WeightsError(
                f"{self.source}: images are resized to {resize}, but both sides must be {sides} for "
                "this model.\nThe size is that of its image processor (preprocessor_config.json)."
            )
        limit = self.architecture.max_queries(self.config, resize)
        if limit is not None and self.config.queries > limit:
            raise WeightsError(
                f"{self.source}: images are resized to {resize}, which gives {limit} tokens for {self.config.queries} "
                "queries.\nThe size is that of its image processor (preprocessor_config.json)."
            )

    @property
    def scoring(self) -> Scoring:
        return self.architecture.scoring(self.config)

    @property
    def segmentation(self) -> Segmentation | None:
        return self.architecture.segmentation(self.config)

    @property
    def clips_boxes(self) -> bool:
        return self.architecture.clips_boxes(self.config)

    def make_loss(self) -> Loss:
        return self.architecture.make_loss(self.config, self.loss)

    def inspect(self, model: DetectionTransformer) -> Inspectable:
        return self.architecture.inspect(model)

    def resized(self, size: int | None = None, max_size: int | None = None, *, in_proportion: bool = False) -> Self:
        """Change the size of the inputs. With `in_proportion`, the longer side changes with the size.

        Raises UsageError for a size that the model does not take.
        """
        before, sides = self.preprocessing.resize, self.architecture.input_sides(self.config)

        def with_size(size: int) -> Resize:
            return before.grown(size) if in_proportion else before.with_size(size, None)

        def tokens(resize: Resize) -> float:
            limit = self.architecture.max_queries(self.config, resize)
            return math.inf if limit is None else limit

        resize = before if size is None else with_size(size)
        if size is not None and not sides.take(resize):
            least, most = (
                (sides.multiple,) * 2 if sides.fixed else (size - 2 * sides.multiple, size + 2 * sides.multiple)
            )
            sizes = {n: with_size(n) for n in range(max(1, least), most + 1)}
            allowed = [n for n, r in sizes.items() if sides.take(r) and tokens(r) >= self.config.queries]
            nearest = sorted(sorted(allowed, key=lambda n: abs(n - size))[:2])
            remedy = f"\nUse {' or '.join(str(argument('size', n)) for n in nearest)}." if nearest else ""
            raise UsageError(
                f"{argument('size', size)}: gives an input of {resize}, but both sides must be {sides} for this "
                f"model.{remedy}"
            )
        if tokens(resize) < self.config.queries:
            raise UsageError(
                f"{argument('size', size)}: gives {tokens(resize)} tokens, from which the model cannot select its "
                f"{self.config.queries} queries. Use a larger size."
            )
        if max_size is not None:
            resize = resize.with_size(None, max_size)
        return replace(self, preprocessing=replace(self.preprocessing, resize=resize))

    def model(self) -> DetectionTransformer:
        """Return a model in eval mode. Its tensors are copies: training it does not change the checkpoint."""
        model = self.architecture.unfilled(self.config)
        wanted = model.state_dict()
        check_fit(self.source, wanted, self.tensors)
        # A sum is ten times as fast. For very large numbers it can be infinite although all of them are finite.
        suspects = [name for name, tensor in self.tensors.items() if not tensor.sum().isfinite()]
        if broken := sorted(name for name in suspects if not self.tensors[name].isfinite().all()):
            raise WeightsError(
                f"{self.source}: {len(broken)} tensors contain numbers that are not finite: {preview(broken, 3)}."
            )
        fitting = {name: tensor.detach().to(wanted[name].dtype, copy=True) for name, tensor in self.tensors.items()}
        model.load_state_dict(fitting, assign=True)
        return model.eval()


def check_fit(source: str, wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raise WeightsError with the names of the tensors that differ in name or shape, if any."""
    shapes = {
        name: [" x ".join(map(str, tensors[name].shape)) for tensors in (given, wanted)]
        for name in wanted.keys() & given.keys()
    }
    differences = {
        "missing": wanted.keys() - given.keys(),
        "left over": given.keys() - wanted.keys(),
        "of another shape": [f"{name} is {a} instead of {b}" for name, (a, b) in shapes.items() if a != b],
    }
    differing = [f"{len(names)} {kind}: {preview(sorted(names), 3)}" for kind, names in differences.items() if names]
    if differing:
        raise WeightsError(f"{source}: the tensors do not fit the model. " + "; ".join(differing) + ".")


def classes_by_index(count: int) -> Classes:
    """Return the classes of weights without names: COCO's or COCO panoptic's if there are as many, else numbers."""
    coco = {len(names): names for names in (NAMES, PANOPTIC_NAMES, NAMED)}
    names = coco.get(count) or [f"class {index}" for index in range(count)]
    things = np.arange(count) < len(NAMES) if names is PANOPTIC_NAMES else None
    return Classes(ids=np.arange(count), names=np.array(names), things=things)
