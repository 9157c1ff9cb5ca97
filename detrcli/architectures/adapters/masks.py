"""Networks of transformers that classify masks, as ours: what stands in place of a box is the one around a mask."""

from collections.abc import Sequence

from torch import Tensor

from detrcli.architectures.adapters.base import TransformersNetwork
from detrcli.architectures.adapters.config import MaskConfig
from detrcli.architectures.adapters.library import the_library
from detrcli.boxes import from_pixels, masks_to_boxes
from detrcli.model.masks import QueryMasks
from detrcli.structures import Batch, Output, QueryGroup, Target


class MaskNetwork(TransformersNetwork):
    """The network. All masks of a picture come out together."""

    has_masks = True

    def __init__(self, config: MaskConfig) -> None:
        super().__init__(the_library().AutoModelForUniversalSegmentation, config.numbers, config.family)

    def forward(self, batch: Batch, targets: Sequence[Target] | None = None) -> Output:
        found = self.network(pixel_values=batch.images)
        logits: Tensor = found.masks_queries_logits  # (B, Q, h, w)
        height, width = batch.images.shape[-2:]
        boxes = from_pixels(masks_to_boxes(logits > 0).float(), *logits.shape[-2:])  # (B, Q, 4)
        masks = QueryMasks((height, width), lambda images, queries: logits[images, queries], by_corner=True)
        return Output(QueryGroup("decoder", found.class_queries_logits[None], boxes[None])).with_masks(masks)
