"""DINO (arXiv 2203.03605): query selection from proposals, contrastive denoising, look forward twice."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from detrcli.model.backbone import Backbone
from detrcli.model.deformable_detr import init_attentions, init_projections, init_proposer
from detrcli.model.deformable_transformer import DeformableDecoderLayer, DeformableEncoder, inverse_sigmoid
from detrcli.model.denoising import Denoising, DenoisingQueries
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.model.heads import BoxHead, init_focal_heads
from detrcli.model.position import SinePosition
from detrcli.model.proposals import MixedSelection, PureSelection
from detrcli.model.pyramid import PyramidInput
from detrcli.model.transformer import init_weights
from detrcli.structures import Batch, Output, QueryGroup, Target

EPS = 1e-3  # of the inverse sigmoid


class DINO(DetectionTransformer):
    """DINO, assembled from its parts; `rows` is the number of class logits.

    Look forward twice: a layer's box is the reference of the next layer, detached, but the box predicted there is
    added to it without detaching, so that its loss trains both layers.
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
        """Return the level codes if no encoder layer uses them."""
        return [] if len(self.encoder.layers) else [self.pyramid.level_codes]

    def forward(self, batch: Batch, targets: Sequence[Target] | None = None) -> Output:
        maps = self.backbone(batch.images)
        pyramid = self.pyramid(maps, batch)
        memory = self.encoder(pyramid)  # (B, S, C)

        start = self.selection(memory, pyramid)
        if not self.decoder:  # the proposals are the predictions
            return Output(replace(start.proposals, name="decoder"), named={"memory": memory}, maps=maps)
        x, references = start.contents, start.references  # (B, Q, C), (B, Q, 4)
        noisy = attn_mask = None
        if targets is not None and self.denoising is not None:
            noisy = self.denoising(targets, x.shape[1])
            x = torch.cat([noisy.contents.to(x.dtype), x], 1)  # (B, D + Q, C)
            references = torch.cat([noisy.references, references], 1)  # (B, D + Q, 4)
            attn_mask = noisy.attn_mask  # (D + Q, D + Q)

        references = references.sigmoid()
        undetached = references  # the boxes that the next layer's corrections are added to
        hidden, boxes = [], []
        for layer in self.decoder:
            position = self.positions(references * pyramid.valid_ratios[:, :1].repeat(1, 1, 2)).to(x.dtype)
            x = layer(x, position, references, memory, pyramid, attn_mask)
            hidden.append(self.norm(x))
            boxes.append((self.box_head.logits(hidden[-1]) + inverse_sigmoid(undetached, EPS)).sigmoid())
            undetached = (self.box_head.logits(x) + inverse_sigmoid(references, EPS)).sigmoid()
            references = undetached.detach()

        states = torch.stack(hidden)  # (L, B, D + Q, C)
        group = QueryGroup("decoder", self.class_head(states), torch.stack(boxes), states, tokens=start.tokens)
        if noisy is None:
            return Output(group, (start.proposals,), {"memory": memory}, maps)
        decoder, denoising = _split(group, noisy)
        return Output(decoder, (denoising, start.proposals), {"memory": memory}, maps)

    def positions(self, boxes: Tensor) -> Tensor:
        """Return the query positions (B, Q, C) of boxes (B, Q, 4) on the finest level."""
        cx, cy, w, h = boxes.unbind(-1)
        return self.place(self.code.encode(torch.stack([cy, cx, w, h], -1)).to(self.norm.weight.dtype))


def _split(group: QueryGroup, noisy: DenoisingQueries) -> tuple[QueryGroup, QueryGroup]:
    """Split a group into the matching queries, and the D denoising queries before them."""
    D = noisy.contents.shape[1]
    assert group.hidden is not None
    matching, denoising = (
        (group.logits[:, :, part], group.boxes[:, :, part], group.hidden[:, :, part])
        for part in (slice(D, None), slice(0, D))
    )
    return QueryGroup("decoder", *matching, tokens=group.tokens), QueryGroup(
        "denoising", *denoising, match=noisy.match(len(group)), counts=noisy.counts
    )


def init_dino(dino: DINO) -> None:
    """Initialize DINO as published."""
    for part in (dino.encoder, dino.decoder, dino.place):
        init_weights(part)
    init_projections(dino.pyramid)
    init_focal_heads(dino.class_head, dino.box_head)
    init_proposer(dino.selection.proposer)
    init_attentions(dino)
