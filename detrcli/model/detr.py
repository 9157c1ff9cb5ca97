"""DETR: a picture and a fixed set of object queries in, a set of classes and boxes out."""

import torch.nn.functional as F
from torch import Tensor, nn

from detrcli.model.backbone import Backbone
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.model.heads import BoxHead
from detrcli.model.transformer import Decoder, Encoder, start
from detrcli.structures import Batch, Group, Output, Prediction


class DETR(DetectionTransformer):
    """The detection transformer, from parts that fit each other."""

    def __init__(
        self,
        *,
        backbone: Backbone,
        position: nn.Module,
        encoder: Encoder,
        decoder: Decoder,
        dim: int,
        queries: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = nn.Conv2d(backbone.channels, dim, kernel_size=1)
        self.position = position
        self.encoder = encoder
        self.queries = nn.Embedding(queries, dim)
        self.decoder = decoder
        self.class_head = nn.Linear(dim, classes + 1)  # the last one is "no object"
        self.box_head = BoxHead(dim)
        initialise(self)

    def forward(self, batch: Batch) -> Output:
        features = self.projection(self.backbone(batch.images))  # (B, C, h, w)
        padding = downsample_padding(batch.padding, features)  # (B, h, w)
        position = tokens(self.position(padding))  # (B, S, C)
        padding = padding.flatten(1)  # (B, S)

        memory = self.encoder(tokens(features), position, padding)  # (B, S, C)
        hidden = self.decoder(self.queries.weight, memory, position, padding)  # (L, B, Q, C)

        logits = self.class_head(hidden)  # (L, B, Q, K + 1)
        boxes = self.box_head(hidden)  # (L, B, Q, 4)
        *auxiliary, last = (Prediction(*layer) for layer in zip(logits, boxes, strict=True))
        return Output(last, tuple(Group(f"layer {i}", layer) for i, layer in enumerate(auxiliary)))


def tokens(cells: Tensor) -> Tensor:
    """A map (B, C, h, w) as a row of tokens (B, S, C), row by row."""
    return cells.flatten(2).mT


def downsample_padding(padding: Tensor, features: Tensor) -> Tensor:
    """Padding of pixels (B, H, W) to that of feature cells (B, h, w).

    A cell is what its upper left pixel is, so the first cell of a picture is never padding.
    """
    return F.interpolate(padding[None].float(), size=features.shape[-2:])[0].bool()


def initialise(detr: DETR) -> None:
    """Every random start, as published.

    - Transformer: its own rule.
    - Object queries: standard normal. Learned positions: uniform in [0, 1).
    - 1 x 1 projection, class head, box head: torch's default.
    - Backbone: torchvision's default, meant to be replaced by trained weights.
    """
    start(detr.encoder)
    start(detr.decoder)
    nn.init.normal_(detr.queries.weight)
    for learned in detr.position.parameters():
        nn.init.uniform_(learned)
