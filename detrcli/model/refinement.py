"""DETR whose queries carry a box that every decoder layer refines (arXiv 2010.04159, 2201.12329)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrcli.model.backbone import Backbone
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.model.detr import downsample_padding, tokens
from detrcli.model.heads import BoxHead
from detrcli.model.position import SinePosition
from detrcli.model.transformer import Decoder, Encoder, init_weights
from detrcli.structures import Batch, Output, QueryGroup, Target


class Queries(nn.Module):
    """What is looked for, and where from.

    Contents start standard normal: they differ, so that the first self-attention has something to tell apart.
    """

    def __init__(self, queries: int, dim: int) -> None:
        super().__init__()
        self.contents = nn.Parameter(nn.init.normal_(torch.empty(queries, dim)))
        self.references = nn.Parameter(
            initial_reference_boxes(queries).to(self.contents.device)
        )  # (Q, 4), before the sigmoid


class IterativeRefinementDETR(DetectionTransformer):
    """Each query has a box, which starts at its reference.

    A decoder layer looks from there and moves the box, and the next one looks from its new place: so a query
    knows its own surroundings from the first step of training. The layers are those of DETR's decoder, with its
    norm; only the way from one to the next is walked here.
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
        self.queries = Queries(queries, dim)
        self.place = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.decoder = decoder
        self.class_head = nn.Linear(dim, rows)
        self.box_head = BoxHead(dim)
        init_refining(self)

    def forward(self, batch: Batch, targets: Sequence[Target] | None = None) -> Output:
        maps = self.backbone(batch.images)
        features = self.projection(maps[-1])  # (B, C, h, w)
        padding = downsample_padding(batch.padding, features)  # (B, h, w)
        position = tokens(self.position(features, padding)).to(self.queries.contents.dtype)  # (B, S, C)
        padding = None if padding is None else padding.flatten(1)  # (B, S)
        memory = self.encoder(tokens(features), position, padding)  # (B, S, C)

        x = self.queries.contents.expand(memory.shape[0], -1, -1)  # (B, Q, C)
        boxes = self.queries.references.float().expand(memory.shape[0], -1, -1)  # (B, Q, 4), before the sigmoid
        hidden, refined = [], []
        for layer in self.decoder.layers:
            x = layer(x, self.locate(boxes), memory, position, padding)
            hidden.append(self.decoder.norm(x))
            boxes = boxes + self.box_head.logits(hidden[-1])
            refined.append(boxes.sigmoid())
            boxes = boxes.detach()  # each layer answers for its own step alone
        states = torch.stack(hidden)  # (L, B, Q, C)
        return Output(
            QueryGroup("decoder", self.class_head(states), torch.stack(refined), states),
            named={"features": features, "memory": memory},
            maps=maps,
        )

    def locate(self, boxes: Tensor) -> Tensor:
        """Boxes before the sigmoid (B, Q, 4) as the positions of queries (B, Q, C).

        The centre has the code of the cell that lies there; what all four numbers say together is added.
        """
        cx, cy, w, h = boxes.sigmoid().unbind(-1)
        code = self.position.encode(torch.stack([cy, cx, h, w], -1)).to(self.queries.contents.dtype)  # (B, Q, 2 C)
        centre, _ = code.chunk(2, -1)  # (B, Q, C)
        return centre + self.place(code)


def initial_reference_boxes(queries: int) -> Tensor:
    """Boxes before the sigmoid (Q, 4), evenly over the picture however many there are.

    Their centres are multiples of powers of the plastic number, modulo 1: any first ones of this endless row lie
    apart from each other, and those that are added fall into the gaps.
    """
    plastic = 1.3247179572447460  # x ** 3 = x + 1
    # Computed where numbers are, also where a model is built without any (on "meta").
    step = torch.tensor([1 / plastic, 1 / plastic**2], dtype=torch.float64, device="cpu")
    centres = (0.5 + torch.arange(queries, device="cpu")[:, None] * step) % 1  # (Q, 2)
    sides = torch.full_like(centres, 0.2)
    return torch.cat([0.05 + 0.9 * centres, sides], 1).logit().float()


def init_refining(detr: IterativeRefinementDETR) -> None:
    """The random start, as DETR's where nothing else is said here.

    - The last layers of box head and place are zero: boxes begin by staying where they are, and a query's position
      is the code of its centre.
    - Cross-attention has the same orthogonal projection for queries and keys: codes that are alike find each other,
      so that a query begins by looking at what is around it, and need not learn first how to.
    """
    init_weights(detr.encoder)
    init_weights(detr.decoder)
    for last in (detr.box_head.layers[-1], detr.place[-1]):
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
    for name, projections in detr.decoder.named_parameters():
        if name.endswith("cross_attention.in_proj_weight"):
            queries, keys, _ = projections.detach().chunk(3)  # each (C, C)
            keys.copy_(nn.init.orthogonal_(queries))
