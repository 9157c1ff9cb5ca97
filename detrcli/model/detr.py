"""DETR (arXiv 2005.12872): an image and a fixed set of object queries in, a set of classes and boxes out."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from detrcli.model.backbone import Backbone
from detrcli.model.detection_transformer import BoxHead, DetectionTransformer
from detrcli.model.transformer import Decoder, Encoder, init_weights
from detrcli.structures import Batch, Output, QueryGroup, Target


class DETR(DetectionTransformer):
    """The detection transformer, assembled from its parts; `rows` is the number of class logits."""

    def __init__(
        self,
        *,
        backbone: Backbone,
        position: nn.Module,
        encoder: Encoder,
        decoder: Decoder,
        dim: int,
        queries: int,
        rows: int,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = nn.Conv2d(backbone.channels[-1], dim, kernel_size=1)
        self.position = position
        self.encoder = encoder
        self.queries = nn.Embedding(queries, dim)
        self.decoder = decoder
        self.class_head = nn.Linear(dim, rows)
        self.box_head = BoxHead(dim)
        # Initialized as published. The projection and the heads keep torch's default, the backbone torchvision's.
        init_weights(encoder)
        init_weights(decoder)
        nn.init.normal_(self.queries.weight)
        for learned in position.parameters():
            nn.init.uniform_(learned)

    def forward(self, batch: Batch, targets: Sequence[Target] | None = None) -> Output:
        maps = self.backbone(batch.images)
        features = self.projection(maps[-1])  # (B, C, h, w)
        padding = downsample_padding(batch.padding, features)  # (B, h, w)
        position = tokens(self.position(features, padding)).to(self.queries.weight.dtype)  # (B, S, C)
        padding = None if padding is None else padding.flatten(1)  # (B, S)

        memory = self.encoder(tokens(features), position, padding)  # (B, S, C)
        hidden = self.decoder(self.queries.weight, memory, position, padding)  # (L, B, Q, C)

        logits = self.class_head(hidden)  # (L, B, Q, R)
        boxes = self.box_head(hidden)  # (L, B, Q, 4)
        decoder = QueryGroup("decoder", logits, boxes, hidden)
        return Output(decoder, named={"features": features, "memory": memory}, maps=maps)


def tokens(cells: Tensor) -> Tensor:
    """Flatten a map (B, C, h, w) to tokens (B, S, C), row by row."""
    return cells.flatten(2).mT


def downsample_padding(padding: Tensor | None, features: Tensor) -> Tensor | None:
    """Downsample the padding of pixels (B, H, W) to that of feature cells (B, h, w).

    A cell takes the value of its upper left pixel, so the first cell of an image is never padding.
    """
    if padding is None:
        return None
    return F.interpolate(padding[None].float(), size=features.shape[-2:])[0].bool()
