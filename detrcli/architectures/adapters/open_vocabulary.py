"""Networks of transformers that look for phrases, as ours: what is said of a text becomes a number for each."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detrcli.architectures.adapters.base import TransformersNetwork
from detrcli.architectures.adapters.config import OpenVocabularyConfig
from detrcli.architectures.adapters.families import OpenVocabulary
from detrcli.architectures.adapters.library import the_library
from detrcli.structures import Batch, Output, QueryGroup, Target


class OpenVocabularyNetwork(TransformersNetwork):
    """The network with the phrases that it looks for in every picture."""

    family: OpenVocabulary
    texts: Tensor  # (P, T), tokens
    real: Tensor  # (P, T), 0 where a shorter text is filled up

    def __init__(self, config: OpenVocabularyConfig) -> None:
        super().__init__(the_library().AutoModelForZeroShotObjectDetection, config.numbers, config.family)
        rows = [torch.tensor(row) for row in config.texts]
        ones = [torch.ones_like(row) for row in rows]
        self.register_buffer("texts", pad_sequence(rows, batch_first=True), persistent=False)
        self.register_buffer("real", pad_sequence(ones, batch_first=True), persistent=False)

    def forward(self, batch: Batch, targets: Sequence[Target] | None = None) -> Output:
        B = len(batch.images)
        given: dict[str, Any] = {
            "pixel_values": batch.images,
            "input_ids": self.texts.repeat(B, 1),  # (B * P, T)
            "attention_mask": self.real.repeat(B, 1),
        }
        if self.family.masked and batch.padding is not None:
            given["pixel_mask"] = (~batch.padding).long()
        logits, boxes = self.answers(given)
        return Output(QueryGroup("decoder", logits, boxes))

    @abstractmethod
    def answers(self, given: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Logits (L, B, Q, K) and boxes (L, B, Q, 4) for what the network is given."""


class TokenNetwork(OpenVocabularyNetwork):
    """All phrases are one text, and queries answer to each token of it: a phrase is as likely as its best token."""

    def __init__(self, config: OpenVocabularyConfig) -> None:
        super().__init__(config)
        self.spans = config.spans
        self.listener = LayerListener()
        self.network.loss_function = self.listener

    def answers(self, given: dict[str, Any]) -> tuple[Tensor, Tensor]:
        self.network(**given, labels=[])  # no objects: so the listener is told of all layers
        tokens, boxes = self.listener.take()
        return torch.stack([tokens[..., first:end].amax(-1) for first, end in self.spans], -1), boxes


class LayerListener:
    """Stands where a network calls its loss, and hears there what every layer answers."""

    def __init__(self) -> None:
        self.heard: tuple[Tensor, Tensor] | None = None

    def __call__(
        self, *_last: Any, outputs_class: Tensor, outputs_coord: Tensor, **_more: Any
    ) -> tuple[None, None, None]:
        self.heard = outputs_class, outputs_coord
        return None, None, None

    def take(self) -> tuple[Tensor, Tensor]:
        """Logits of tokens (L, B, Q, T) and boxes (L, B, Q, 4)."""
        heard, self.heard = self.heard, None
        assert heard is not None
        return heard


class PatchNetwork(OpenVocabularyNetwork):
    """Every phrase is a text of its own, and queries are the patches of the picture."""

    def answers(self, given: dict[str, Any]) -> tuple[Tensor, Tensor]:
        side = self.network.config.vision_config.image_size
        other = tuple(given["pixel_values"].shape[2:]) != (side, side)
        found = self.network(**given, interpolate_pos_encoding=other)
        return found.logits[None], found.pred_boxes[None]
