"""DINO (arXiv 2203.03605): queries begin at proposals, denoising beside the matching, look forward twice."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from detrcli.model.backbone import Backbone
from detrcli.model.deformable_attention import DeformableAttention, init_deformable
from detrcli.model.deformable_detr import init_projections, init_proposer
from detrcli.model.deformable_transformer import DeformableDecoderLayer, DeformableEncoder, inverse_sigmoid
from detrcli.model.denoising import Denoising, DenoisingQueries
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.model.heads import BoxHead, init_focal_heads
from detrcli.model.position import SinePosition
from detrcli.model.pyramid import PyramidInput
from detrcli.model.selection import MixedSelection, PureSelection
from detrcli.model.transformer import init_weights
from detrcli.structures import Batch, Output, QueryGroup, Target

EPS = 1e-3  # of the inverse sigmoid


class DINO(DetectionTransformer):
    """Queries begin at the best proposals, with contents by the selection's rule.

    A box is the reference of the next layer, detached; what is predicted there is added to it not detached, so that
    its loss improves this layer's box too (look forward twice).
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        pyramid: PyramidInput,
        encoder: DeformableEncoder,
        layers: Sequence[DeformableDecoderLayer],
        selection: MixedSelection | PureSelection,
        denoising: Denoising | None,
        dim: int,
        rows: int,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pyramid = pyramid
        self.encoder = encoder
        self.selection = selection
        self.code = SinePosition(dim)
        self.place = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.decoder = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(dim)
        self.denoising = denoising
        self.class_head = nn.Linear(dim, rows)
        self.box_head = BoxHead(dim)
        init_dino(self)

    def without_gradient(self) -> Sequence[nn.Parameter]:
        """An encoder without layers asks for no positions."""
        return [] if len(self.encoder.layers) else [self.pyramid.level_codes]

    def forward(self, batch: Batch, targets: Sequence[Target] | None = None) -> Output:
        maps = self.backbone(batch.images)
        pyramid = self.pyramid(maps, batch)
        memory = self.encoder(pyramid)  # (B, S, C)

        selected = self.selection(memory, pyramid)
        if not self.decoder:  # the encoder alone: proposals are all there is
            proposed = selected.proposals
            return Output(replace(proposed, name="decoder"), named={"memory": memory}, maps=maps)
        x, references = selected.contents, selected.references  # (B, Q, C), (B, Q, 4)
        noisy = None
        if targets is not None and self.denoising is not None:
            noisy = self.denoising(targets, x.shape[1])
            x = torch.cat([noisy.contents.to(x.dtype), x], 1)  # (B, D + Q, C)
            references = torch.cat([noisy.references, references], 1)  # (B, D + Q, 4)

        references = references.sigmoid()
        looked_forward = references  # what the next box is added to
        hidden, moved = [], []
        for layer in self.decoder:
            x = layer(
                x, self.positions(references * pyramid.picture[:, :1].repeat(1, 1, 2)).to(x.dtype),
                references, memory, pyramid, None if noisy is None else noisy.hidden,
            )  # fmt: skip
            hidden.append(self.norm(x))
            moved.append((self.box_head.logits(hidden[-1]) + inverse_sigmoid(looked_forward, EPS)).sigmoid())
            looked_forward = (self.box_head.logits(x) + inverse_sigmoid(references, EPS)).sigmoid()
            references = looked_forward.detach()

        states = torch.stack(hidden)  # (L, B, D + Q, C)
        every = QueryGroup("decoder", self.class_head(states), torch.stack(moved), states, tokens=selected.tokens)
        if noisy is None:
            return Output(every, (selected.proposals,), {"memory": memory}, maps)
        decoder, denoising = _apart(every, noisy)
        return Output(decoder, (denoising, selected.proposals), {"memory": memory}, maps)

    def positions(self, boxes: Tensor) -> Tensor:
        """Boxes (B, Q, 4), of the finest level, as positions of queries (B, Q, C)."""
        cx, cy, w, h = boxes.unbind(-1)
        return self.place(self.code.encode(torch.stack([cy, cx, w, h], -1)).to(self.norm.weight.dtype))


def _apart(every: QueryGroup, noisy: DenoisingQueries) -> tuple[QueryGroup, QueryGroup]:
    """The matching queries, and the denoising ones, which stand before them."""
    D = noisy.contents.shape[1]
    assert every.hidden is not None
    decoder, denoising = (
        (every.logits[:, :, own], every.boxes[:, :, own], every.hidden[:, :, own])
        for own in (slice(D, None), slice(0, D))
    )
    return QueryGroup("decoder", *decoder, tokens=every.tokens), QueryGroup(
        "denoising", *denoising, match=noisy.match(len(every)), counts=noisy.counts
    )


def init_dino(dino: DINO) -> None:
    """Every random start, as published."""
    for part in (dino.encoder, dino.decoder, dino.place):
        init_weights(part)
    init_projections(dino.pyramid)
    init_focal_heads(dino.class_head, dino.box_head)
    init_proposer(dino.selection.proposer)
    for module in dino.modules():
        if isinstance(module, DeformableAttention):
            init_deformable(module)
