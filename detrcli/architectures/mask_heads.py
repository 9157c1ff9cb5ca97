"""Detectors with a mask head: DETR's (section 4 of arXiv 2005.12872), or dot products as in Mask DINO (2206.02777)."""

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from detrcli.architectures import deformable_detr, detr, dino, tiny
from detrcli.architectures.architecture import Architecture, DataFacts, PretrainedBackbone, StateDictAdapter
from detrcli.architectures.deformable_detr import DeformableConfig
from detrcli.architectures.detr import DETRConfig, HuggingFaceDETR, PublishedDETR, RenamingAdapter, Rule, rename
from detrcli.config import LossConfig, ModelConfig
from detrcli.losses.criterion import Criterion
from detrcli.losses.masks import cross_entropy, dice, every_pixel, focal, mask_loss, sampled_points
from detrcli.losses.scoring import Scoring
from detrcli.model.deformable_detr import DeformableDETR
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.model.dino import DINO
from detrcli.model.inspectable import Inspectable
from detrcli.model.masks import ConvolutionalMaskHead, DotProductMaskHead, Segmenter
from detrcli.segmentation.detr import DETRSegmentation

DETECTOR = "detector."  # prefix of the detector's tensors

# Tensor names of the mask head in the published checkpoints, in files of transformers, and in modules of
# transformers 5. The names of the detector's tensors start with "detr.".
MASK_HEAD: tuple[Rule, ...] = (
    (r"^bbox_attention\.q_(linear|proj)\.", "mask_head.attention.query."),
    (r"^bbox_attention\.k_(linear|proj)\.", "mask_head.attention.key."),
    (r"^mask_head\.lay(\d)\.", lambda layer: f"mask_head.convs.{int(layer[1]) - 1}."),
    (r"^mask_head\.gn(\d)\.", lambda layer: f"mask_head.norms.{int(layer[1]) - 1}."),
    (r"^mask_head\.adapter(\d)\.", lambda layer: f"mask_head.laterals.{int(layer[1]) - 1}."),
    (r"^mask_head\.conv(\d)\.(conv|norm)\.", lambda part: f"mask_head.{part[2]}s.{int(part[1]) - 1}."),
    (r"^mask_head\.fpn_stages\.(\d)\.fpn_adapter\.", r"mask_head.laterals.\1."),
    # Two convolutions come before the convolutions of the finer maps.
    (r"^mask_head\.fpn_stages\.(\d)\.refine\.(conv|norm)\.", lambda part: f"mask_head.{part[2]}s.{int(part[1]) + 2}."),
    (r"^mask_head\.(out_lay|output_conv)\.", "mask_head.last."),
)


class WithMaskHead(StateDictAdapter[Any]):
    """State dicts of a detector with a mask head, recognized by `mark` in a name.

    `prefix` starts the names of the detector's tensors in our state dict.
    """

    def __init__(self, detector: RenamingAdapter, prefix: str, mark: str) -> None:
        self.detector, self.prefix, self.mark = detector, prefix, mark

    def recognizes(self, names: Collection[str]) -> bool:
        return any(self.mark in name for name in names)

    def rename(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
        detector = self.detector.rename(_without_prefix(tensors, "detr."))
        head = {rename(name, MASK_HEAD): tensor for name, tensor in tensors.items() if not name.startswith("detr.")}
        return {self.prefix + name: tensor for name, tensor in detector.items()} | head

    def infer(self, source: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], wanted: Any) -> Any:
        detector = _without_prefix(tensors, self.prefix)
        first, queries = tensors.get("mask_head.convs.0.bias"), detector.get("queries.weight")
        if first is not None and queries is not None and queries.dim() == 2:
            # The first convolution keeps its input channels: the hidden size and an attention map per head.
            facts = {**facts, "nheads": first.numel() - queries.shape[1]}
        return self.detector.infer(source, detector, facts, wanted)


def _without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


class MaskHeadArchitecture(Architecture[Any]):
    """A detector with a mask head. Config, preprocessing, scoring and recipe are those of the detector."""

    detector: Architecture[Any]
    mask_weight: float  # of each mask term in the loss
    mask_term: Callable[[Tensor, Tensor], Tensor]  # in addition to the dice loss
    points: int | None = None  # at which the loss compares masks; None: all pixels

    def __init__(self, name: str, detector: Architecture[Any], presets: Mapping[str, ModelConfig]) -> None:
        self.name, self.detector, self.presets = name, detector, presets
        self.config = detector.config
        self.preprocessing = detector.preprocessing
        weights = {**detector.loss.loss, "mask": self.mask_weight, "dice": self.mask_weight}
        self.loss = replace(detector.loss, loss=weights)
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
        sampler = every_pixel if self.points is None else sampled_points(self.points)
        terms = {"mask": self.mask_term, "dice": dice}
        masks = [mask_loss(name, loss.weight("loss", name), term, sampler) for name, term in terms.items()]
        return Criterion(boxes.scoring, boxes.matcher, [*boxes.terms, *masks])

    def inspect(self, model: Segmenter) -> Inspectable:
        return self.detector.inspect(model.detector)

    def segmentation(self, config: Any) -> DETRSegmentation:
        return DETRSegmentation()

    def recipe(self, config: Any, facts: DataFacts) -> Mapping[str, Any]:
        return self.detector.recipe(config, facts)

    def summary(self, config: Any) -> str:
        return ", ".join(filter(None, (self.detector.summary(config), "masks")))

    def pretrained_backbone(self, config: Any) -> PretrainedBackbone | None:
        backbone = self.detector.pretrained_backbone(config)
        return backbone and replace(backbone, prefix=DETECTOR + backbone.prefix)


class ConvolutionalMasks(MaskHeadArchitecture):
    """DETR with the mask head of its paper, for instances and for panoptic maps."""

    mask_weight = 1.0
    mask_term = staticmethod(focal)
    published = WithMaskHead(PublishedDETR(DETRConfig), DETECTOR, "mask_head.lay1.")
    hugging_face: Mapping[str, WithMaskHead] = {
        "detr": WithMaskHead(HuggingFaceDETR(DETRConfig), DETECTOR, "bbox_attention.")
    }

    def add_mask_head(self, config: DETRConfig, detector: DetectionTransformer) -> Segmenter:
        return Segmenter(detector, ConvolutionalMaskHead(config.dim, config.heads, detector.backbone.channels[:-1]))


class DotProductMasks(MaskHeadArchitecture):
    """A detector whose masks are dot products of queries and pixels. The loss samples points of each mask."""

    mask_weight = 5.0
    mask_term = staticmethod(cross_entropy)
    points = 12_544  # as in arXiv 2112.01527
    with_image = False  # whether the finest map is the image itself

    def add_mask_head(self, config: Any, detector: DetectionTransformer) -> Segmenter:
        # The detector uses the last maps of the backbone; the mask head uses the finer maps too.
        used = detector.pyramid.maps if isinstance(detector, DeformableDETR | DINO) else 1
        finer = detector.backbone.channels[:-used]
        head = DotProductMaskHead(config.dim, (3, *finer) if self.with_image else finer)
        return Segmenter(detector, head, encoder_map=-used, with_image=self.with_image)


class SmallDotProductMasks(DotProductMasks):
    """A small detector with masks. Masks of small objects depend on edges, so the image is the finest map."""

    points = 1024
    with_image = True

    def __init__(self, detector: Architecture[Any]) -> None:
        name = f"{detector.name}-masks"
        super().__init__(name, detector, {name: detector.presets[detector.name]})


# 250 classes: the highest id of COCO's things and stuff, and some unused.
_PANOPTIC = {
    "detr-r50-panoptic": DETRConfig(classes=250),
    "detr-r50-dc5-panoptic": DETRConfig(classes=250, dilated=True),
    "detr-r101-panoptic": DETRConfig(classes=250, backbone="resnet101"),
}
_DEFORMABLE = {
    "deformable-detr-r50-masks": DeformableConfig(),
    "deformable-detr-r50-refine-two-stage-masks": DeformableConfig(refine=True, two_stage=True),
}
CONVOLUTIONAL = ConvolutionalMasks("detr-masks", detr.ARCHITECTURE, _PANOPTIC)
DOT_PRODUCT = (
    SmallDotProductMasks(tiny.DETR_TINY),
    SmallDotProductMasks(tiny.DINO_TINY),
    SmallDotProductMasks(tiny.DEFORMABLE_TINY),
    DotProductMasks("detr-product-masks", detr.ARCHITECTURE, {"detr-r50-masks": DETRConfig()}),
    DotProductMasks("deformable-detr-masks", deformable_detr.ARCHITECTURE, _DEFORMABLE),
    DotProductMasks("dino-masks", dino.ARCHITECTURE, {"dino-r50-4scale-masks": dino.DINOConfig()}),
)
