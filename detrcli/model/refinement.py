"""DETR with iterative refinement: every decoder layer corrects the queries' boxes (arXiv 2010.04159, 2201.12329)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrcli.model.backbone import Backbone
from detrcli.model.detection_transformer import BoxHead, DetectionTransformer
from detrcli.model.detr import downsample_padding, tokens
from detrcli.model.position import SinePosition
from detrcli.model.transformer import Decoder, Encoder, init_weights
from detrcli.structures import Batch, Output, QueryGroup, Target


class IterativeRefinementDETR(DetectionTransformer):
    """DETR whose queries have reference boxes.

    Each decoder layer computes its query positions from the boxes of the previous layer and corrects these boxes, so
    queries attend to their surroundings from the first training step. The decoder layers and their norm are DETR's.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        position: SinePosition,
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
        # Contents differ between queries, so that the first self-attention can distinguish them.
        contents = nn.init.normal_(torch.empty(queries, dim))
        references = initial_reference_boxes(queries).to(contents.device)  # (Q, 4), before the sigmoid
        self.queries = nn.ParameterDict({"contents": contents, "references": references})
        self.place = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.decoder = decoder
        self.class_head = nn.Linear(dim, rows)
        self.box_head = BoxHead(dim)
        # Initialized as DETR, except for:
        # - The last layers of `box_head` and `place` are zero: boxes equal their references, and the position of a
        #   query is the encoding of its center.
        # - Cross-attention has the same orthogonal projection for queries and keys: similar encodings have a large dot
        #   product, so each query attends to the cells around it from the start.
        init_weights(encoder)
        init_weights(decoder)
        for parameter in (*self.box_head.layers[-1].parameters(), *self.place[-1].parameters()):
            nn.init.zeros_(parameter)
        for name, projections in decoder.named_parameters():
            if name.endswith("cross_attention.in_proj_weight"):
                query, key, _ = projections.detach().chunk(3)  # each (C, C)
                key.copy_(nn.init.orthogonal_(query))

    def forward(self, batch: Batch, targets: Sequence[Target] | None = None) -> Output:
        maps = self.backbone(batch.images)
        features = self.projection(maps[-1])  # (B, C, h, w)
        padding = downsample_padding(batch.padding, features)  # (B, h, w)
        position = tokens(self.position(features, padding)).to(self.queries["contents"].dtype)  # (B, S, C)
        padding = None if padding is None else padding.flatten(1)  # (B, S)
        memory = self.encoder(tokens(features), position, padding)  # (B, S, C)

        x = self.queries["contents"].expand(memory.shape[0], -1, -1)  # (B, Q, C)
        boxes = self.queries["references"].float().expand(memory.shape[0], -1, -1)  # (B, Q, 4), before the sigmoid
        hidden, refined = [], []
        for layer in self.decoder.layers:
            x = layer(x, self.locate(boxes), memory, position, padding)
            hidden.append(self.decoder.norm(x))
            boxes = boxes + self.box_head.logits(hidden[-1])
            refined.append(boxes.sigmoid())
            boxes = boxes.detach()  # the loss of a layer trains only the correction of that layer
        states = torch.stack(hidden)  # (L, B, Q, C)
        decoder = QueryGroup("decoder", self.class_head(states), torch.stack(refined), states)
        return Output(decoder, named={"features": features, "memory": memory}, maps=maps)

    def locate(self, boxes: Tensor) -> Tensor:
        """Return the query positions (B, Q, C) of boxes (B, Q, 4) before the sigmoid.

        A position is the encoding of the box's center plus a learned function of the encoding of all four coordinates.
        """
        cx, cy, w, h = boxes.sigmoid().unbind(-1)
        encoding = self.position.encode(torch.stack([cy, cx, h, w], -1))  # (B, Q, 2 C), y before x as for cells
        encoding = encoding.to(self.queries["contents"].dtype)
        center, _ = encoding.chunk(2, -1)  # (B, Q, C)
        return center + self.place(encoding)


def initial_reference_boxes(queries: int) -> Tensor:
    """Return boxes before the sigmoid (Q, 4) that cover the image evenly, for any number of queries.

    Their centers are multiples of powers of the plastic number, modulo 1: in this low-discrepancy sequence the
    first n points are spread evenly for every n.
    """
    plastic = 1.3247179572447460  # x ** 3 = x + 1
    # On the CPU even if the model is built on the meta device, which has no values.
    step = torch.tensor([1 / plastic, 1 / plastic**2], dtype=torch.float64, device="cpu")
    centers = (0.5 + torch.arange(queries, device="cpu")[:, None] * step) % 1  # (Q, 2)
    sides = torch.full_like(centers, 0.2)
    return torch.cat([0.05 + 0.9 * centers, sides], 1).logit().float()
