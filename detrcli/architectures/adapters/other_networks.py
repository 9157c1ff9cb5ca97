"""Open-vocabulary detectors and mask classifiers of transformers as networks of ours."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detrcli.architectures.adapters.config import OpenVocabularyConfig
from detrcli.architectures.adapters.families import OpenVocabulary
from detrcli.architectures.adapters.library import TransformersNetwork
from detrcli.boxes import from_pixels, masks_to_boxes
from detrcli.model.masks import QueryMasks
from detrcli.structures import Batch, Output, QueryGroup, Target


class OpenVocabularyNetwork(TransformersNetwork):
    """A network with the phrases that it detects in every image."""

    family: OpenVocabulary
    texts: Tensor  # (P, T), tokens
    text_mask: Tensor  # (P, T), 0 for the padding of shorter texts
    task = "AutoModelForZeroShotObjectDetection"

    def __init__(self, config: OpenVocabularyConfig) -> None:
        super().__init__(config)
        rows = [torch.tensor(row) for row in config.texts]
        mask = [torch.ones_like(row) for row in rows]
        self.register_buffer("texts", pad_sequence(rows, batch_first=True), persistent=False)
        self.register_buffer("text_mask", pad_sequence(mask, batch_first=True), persistent=False)

    def forward(self, batch: Batch, targets: Sequence[Target] | None = None) -> Output:
        B = len(batch.images)
        inputs: dict[str, Any] = {
            "pixel_values": batch.images,
            "input_ids": self.texts.repeat(B, 1),  # (B * P, T)
            "attention_mask": self.text_mask.repeat(B, 1),
        }
        if self.family.masked and batch.padding is not None:
            inputs["pixel_mask"] = (~batch.padding).long()
        logits, boxes = self.predict(inputs)
        return Output(QueryGroup("decoder", logits, boxes))

    @abstractmethod
    def predict(self, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return logits (L, B, Q, K) and boxes (L, B, Q, 4) for the inputs of the network."""


class TokenNetwork(OpenVocabularyNetwork):
    """All phrases are one text, and queries score its tokens. A phrase has the score of its best token."""

    def __init__(self, config: OpenVocabularyConfig) -> None:
        super().__init__(config)
        self.spans = config.spans
        self.outputs: list[Tensor] = []
        self.network.loss_function = self._record

    def _record(self, *_last: Any, outputs_class: Tensor, outputs_coord: Tensor, **_more: Any) -> tuple[None, ...]:
        """Replace the loss function, which gets the predictions of every layer."""
        self.outputs = [outputs_class, outputs_coord]
        return None, None, None

    def predict(self, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        self.network(**inputs, labels=[])  # labels, without objects, so that the network calls its loss function
        tokens, boxes = self.outputs  # (L, B, Q, T), (L, B, Q, 4)
        self.outputs = []
        return torch.stack([tokens[..., first:end].amax(-1) for first, end in self.spans], -1), boxes


class PatchNetwork(OpenVocabularyNetwork):
    """Every phrase is a text, and queries are the patches of the image."""

    def predict(self, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        side = self.network.config.vision_config.image_size
        resized = tuple(inputs["pixel_values"].shape[2:]) != (side, side)
        output = self.network(**inputs, interpolate_pos_encoding=resized)
        return output.logits[None], output.pred_boxes[None]


class MaskNetwork(TransformersNetwork):
    """A mask classifier. The boxes are those around the masks."""

    has_masks = True
    task = "AutoModelForUniversalSegmentation"

    def forward(self, batch: Batch, targets: Sequence[Target] | None = None) -> Output:
        output = self.network(pixel_values=batch.images)
        logits: Tensor = output.masks_queries_logits  # (B, Q, h, w)
        height, width = batch.images.shape[-2:]
        boxes = from_pixels(masks_to_boxes(logits > 0).float(), *logits.shape[-2:])  # (B, Q, 4)
        masks = QueryMasks((height, width), lambda images, queries: logits[images, queries], by_corner=True)
        return Output(QueryGroup("decoder", output.class_queries_logits[None], boxes[None])).with_masks(masks)
