"""A detector with a mask head as a member of its own: what is not said here is the detector's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from torch import Tensor

from detrcli.architectures.architecture import Architecture, StateDictAdapter, TrainedBackbone
from detrcli.config import LossConfig, ModelConfig
from detrcli.losses.criterion import Criterion
from detrcli.losses.terms import LossTerm
from detrcli.model.masks import Segmenter
from detrcli.segmentation.published import Published

DETECTOR = "detector."  # before the names of its tensors
C = TypeVar("C", bound=ModelConfig)


def with_masks(
    detector: Architecture[Any],
    *,
    name: str,
    config: type[C],
    presets: Mapping[str, C],
    build: Callable[[C], Segmenter],
    terms: Callable[[C, LossConfig], Sequence[LossTerm]],
    weights: Mapping[str, float],
    published: StateDictAdapter[C] | None = None,
    hugging_face: Mapping[str, StateDictAdapter[C]] | None = None,
) -> Architecture[C]:
    """The architecture of a detector with a mask head, whose config has all numbers of the detector's.

    `terms` are the loss of its masks, `weights` what they weigh unless told otherwise.
    """

    def make_loss(config: C, loss: LossConfig) -> Criterion:
        boxes = detector.make_loss(config, loss)
        assert isinstance(boxes, Criterion)
        return Criterion(boxes.scoring, boxes.matcher, [*boxes.terms, *terms(config, loss)])

    def named(rows: Callable[[Any], Mapping[str, Tensor]]) -> Callable[[C], Mapping[str, Tensor]]:
        return lambda config: {DETECTOR + name: value for name, value in rows(config).items()}

    backbone = detector.backbone
    return Architecture(
        name=name,
        config=config,
        presets=presets,
        build=build,
        scoring=detector.scoring,
        make_loss=make_loss,
        inspect=lambda model: detector.inspect(model.detector),
        preprocessing=detector.preprocessing,
        class_rows=named(detector.class_rows),
        query_rows=named(detector.query_rows),
        segmentation=lambda config: Published(),
        loss=replace(detector.loss, loss={**detector.loss.loss, **weights}),
        recipe=detector.recipe,
        difference=detector.difference,
        summary=lambda config: ", ".join(filter(None, (detector.summary(config), "masks"))),
        published=published,
        hugging_face=hugging_face or {},
        backbone=backbone and TrainedBackbone(backbone.architecture, DETECTOR + backbone.prefix, backbone.refuse),
        detector=detector,
    )
