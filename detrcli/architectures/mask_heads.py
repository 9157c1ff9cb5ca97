"""Detectors with a mask head: DETR's own (section 4 of arXiv 2005.12872) and dot products (arXiv 2206.02777)."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from detrcli.architectures import deformable_detr, deformable_tiny, detr, dino, dino_tiny, tiny
from detrcli.architectures.architecture import Architecture, DataFacts, PretrainedBackbone
from detrcli.architectures.deformable_detr import DeformableConfig
from detrcli.architectures.detr import DETRConfig
from detrcli.architectures.detr_names import HuggingFaceDETR, PublishedDETR, WithMaskHead
from detrcli.config import LossConfig, ModelConfig
from detrcli.losses.criterion import Criterion
from detrcli.losses.masks import cross_entropy, dice, every_pixel, focal, mask_loss, sampled_points
from detrcli.losses.scoring import Scoring
from detrcli.losses.terms import MaskSampler
from detrcli.model.deformable_detr import DeformableDETR
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.model.dino import DINO
from detrcli.model.inspectable import Inspectable
from detrcli.model.masks import ConvolutionalMaskHead, DotProductMaskHead, Segmenter
from detrcli.segmentation.published import Published

DETECTOR = "detector."  # prefix of the detector's tensors
Presets = Mapping[str, ModelConfig]


class MaskHeadArchitecture(Architecture[Any]):
    """A detector with a mask head. It has the detector's config, and everything else from it too."""

    detector: Architecture[Any]

    def __init__(
        self,
        name: str,
        detector: Architecture[Any],
        presets: Presets,
        *,
        mask_weight: float,
        mask_term: Callable[[Tensor, Tensor], Tensor],
        sampler: MaskSampler,
    ) -> None:
        """`mask_term` is the loss of the masks beside the dice loss, and `sampler` chooses where they are compared."""
        self.name, self.detector, self.presets = name, detector, presets
        self.mask_terms, self.sampler = {"mask": mask_term, "dice": dice}, sampler
        self.config = detector.config
        self.preprocessing = detector.preprocessing
        self.loss = replace(detector.loss, loss={**detector.loss.loss, "mask": mask_weight, "dice": mask_weight})
        self.recipe_uses_data = detector.recipe_uses_data
        self.initialized_in_place = detector.initialized_in_place

    @abstractmethod
    def add_mask_head(self, config: Any, detector: DetectionTransformer) -> Segmenter:
        """Return the detector with a newly initialized mask head."""

    def build(self, config: Any) -> Segmenter:
        return self.add_mask_head(config, self.detector.build(config))

    def scoring(self, config: Any) -> Scoring:
        return self.detector.scoring(config)

    def make_loss(self, config: Any, loss: LossConfig) -> Criterion:
        boxes = self.detector.make_loss(config, loss)
        assert isinstance(boxes, Criterion)
        terms = self.mask_terms.items()
        masks = [mask_loss(name, loss.weight("loss", name), term, self.sampler) for name, term in terms]
        return Criterion(boxes.scoring, boxes.matcher, [*boxes.terms, *masks])

    def inspect(self, model: Segmenter) -> Inspectable:
        return self.detector.inspect(model.detector)

    def segmentation(self, config: Any) -> Published:
        return Published()

    def recipe(self, config: Any, facts: DataFacts) -> Mapping[str, Any]:
        return self.detector.recipe(config, facts)

    def summary(self, config: Any) -> str:
        return ", ".join(filter(None, (self.detector.summary(config), "masks")))

    def pretrained_backbone(self, config: Any) -> PretrainedBackbone | None:
        backbone = self.detector.pretrained_backbone(config)
        return backbone and replace(backbone, prefix=DETECTOR + backbone.prefix)


class ConvolutionalMasks(MaskHeadArchitecture):
    """DETR with the mask head of its paper, for instances and for panoptic maps."""

    published = WithMaskHead(PublishedDETR(DETRConfig), DETECTOR, "mask_head.lay1.")
    hugging_face: Mapping[str, WithMaskHead] = {
        "detr": WithMaskHead(HuggingFaceDETR(DETRConfig), DETECTOR, "bbox_attention.")
    }

    def add_mask_head(self, config: DETRConfig, detector: DetectionTransformer) -> Segmenter:
        return Segmenter(detector, ConvolutionalMaskHead(config.dim, config.heads, detector.backbone.channels[:-1]))


class DotProductMasks(MaskHeadArchitecture):
    """A detector whose masks are dot products of queries and pixels. The loss samples points of each mask.

    With `image` the finest map is the image itself: small images have small objects, whose masks depend on their edges.
    """

    def __init__(
        self, name: str, detector: Architecture[Any], presets: Presets, points: int = 12_544, *, image: bool = False
    ) -> None:
        """The default number of points is that of arXiv 2112.01527."""
        sampler = sampled_points(points)
        super().__init__(name, detector, presets, mask_weight=5.0, mask_term=cross_entropy, sampler=sampler)
        self.image = image

    def add_mask_head(self, config: Any, detector: DetectionTransformer) -> Segmenter:
        # The maps that the detector does not use are finer than the memory of its encoder.
        used = detector.pyramid.maps if isinstance(detector, DeformableDETR | DINO) else 1
        finer = detector.backbone.channels[:-used]
        head = DotProductMaskHead(config.dim, (3, *finer) if self.image else finer)
        return Segmenter(detector, head, encoder_map=-used, with_image=self.image)


def _small(detector: Architecture[Any]) -> DotProductMasks:
    name = f"{detector.name}-masks"
    return DotProductMasks(name, detector, {name: detector.presets[detector.name]}, 1024, image=True)


CONVOLUTIONAL = ConvolutionalMasks(
    "detr-masks",
    detr.ARCHITECTURE,
    # 250 classes: the highest id of COCO's things and stuff, and some unused.
    {
        "detr-r50-panoptic": DETRConfig(classes=250),
        "detr-r50-dc5-panoptic": DETRConfig(classes=250, dilated=True),
        "detr-r101-panoptic": DETRConfig(classes=250, backbone="resnet101"),
    },
    mask_weight=1.0,
    mask_term=focal,
    sampler=every_pixel,
)
DOT_PRODUCT = (
    _small(tiny.ARCHITECTURE),
    _small(dino_tiny.ARCHITECTURE),
    _small(deformable_tiny.ARCHITECTURE),
    DotProductMasks("detr-product-masks", detr.ARCHITECTURE, {"detr-r50-masks": DETRConfig()}),
    DotProductMasks(
        "deformable-detr-masks",
        deformable_detr.ARCHITECTURE,
        {
            "deformable-detr-r50-masks": DeformableConfig(),
            "deformable-detr-r50-refine-two-stage-masks": DeformableConfig(refine=True, two_stage=True),
        },
    ),
    DotProductMasks("dino-masks", dino.ARCHITECTURE, {"dino-r50-4scale-masks": dino.DINOConfig()}),
)
