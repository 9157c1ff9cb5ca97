"""DETR with the mask head of its paper (section 4 of arXiv 2005.12872), for instances and for panoptic pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

from detrcli.architectures import detr, detr_names
from detrcli.architectures.detr import DETRConfig
from detrcli.architectures.with_masks import DETECTOR, with_masks
from detrcli.config import Count, LossConfig
from detrcli.losses.masks import dice, every_pixel, focal, mask_loss
from detrcli.losses.terms import LossTerm
from detrcli.model.masks import ConvolutionalMaskHead, Segmenter


@dataclass(frozen=True)
class DETRMasksConfig(DETRConfig):
    """All numbers of the model."""

    classes: Count = 250  # the highest id of COCO's things and stuff, and some that are unused


PRESETS = {
    "detr-r50-panoptic": DETRMasksConfig(),
    "detr-r50-dc5-panoptic": DETRMasksConfig(dilated=True),
    "detr-r101-panoptic": DETRMasksConfig(backbone="resnet101"),
}


def build(config: DETRMasksConfig) -> Segmenter:
    """The network, with the published random start."""
    detector = detr.build(config, finer=True)
    return Segmenter(detector, ConvolutionalMaskHead(config.dim, config.heads, detector.backbone.channels[:-1]))


def mask_terms(_config: DETRMasksConfig, loss: LossConfig) -> Sequence[LossTerm]:
    """The published loss of masks."""
    return [
        mask_loss("mask", loss.weight("loss", "mask"), focal, every_pixel),
        mask_loss("dice", loss.weight("loss", "dice"), dice, every_pixel),
    ]


ARCHITECTURE = with_masks(
    detr.ARCHITECTURE,
    name="detr-masks",
    config=DETRMasksConfig,
    presets=PRESETS,
    build=build,
    terms=mask_terms,
    weights={"mask": 1.0, "dice": 1.0},
    published=detr_names.published_with_masks(DETRMasksConfig, DETECTOR),
    hugging_face={"detr": detr_names.hugging_face_with_masks(DETRMasksConfig, DETECTOR)},
)
