"""DINO (arXiv 2203.03605): query selection from proposals, contrastive denoising, look forward twice."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from detrcli.model.backbone import Backbone
from detrcli.model.deformable_detr import init_deformable
from detrcli.model.deformable_transformer import DeformableDecoderLayer, DeformableEncoder, inverse_sigmoid
from detrcli.model.denoising import Denoising
from detrcli.model.detection_transformer import BoxHead, DetectionTransformer, init_focal_heads
from detrcli.model.position import SinePosition
from detrcli.model.proposals import MixedSelection, PureSelection
from detrcli.model.pyramid import PyramidInput
from detrcli.structures import Batch, Output, QueryGroup, Target

EPS = 1e-3  # of the inverse sigmoid


class DINO(DetectionTransformer):
    """DINO, assembled from its parts; `rows` is the number of class logits.

    Look forward twice: a layer's box is the detached reference of the next layer, but the next layer's correction is
    added to it without detaching, so that the loss of the sum trains both layers.
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
        init_deformable(self, [encoder, self.decoder, self.place], pyramid, [selection.proposer.input[0]])
        init_focal_heads(self.class_head, self.box_head)

    def unused_parameters(self) -> Sequence[nn.Parameter]:
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
        undetached = references  # to which the next layer's correction is added
        hidden, boxes = [], []
        for layer in self.decoder:
            position = self.positions(references * pyramid.valid_ratios[:, :1].repeat(1, 1, 2)).to(x.dtype)
            x = layer(x, position, references, memory, pyramid, attn_mask)
            hidden.append(self.norm(x))
            boxes.append((self.box_head.logits(hidden[-1]) + inverse_sigmoid(undetached, EPS)).sigmoid())
            undetached = (self.box_head.logits(x) + inverse_sigmoid(references, EPS)).sigmoid()
            references = undetached.detach()

        states = torch.stack(hidden)  # (L, B, D + Q, C)
        logits, refined = self.class_head(states), torch.stack(boxes)
        if noisy is None:
            decoder = QueryGroup("decoder", logits, refined, states, tokens=start.tokens)
            return Output(decoder, (start.proposals,), {"memory": memory}, maps)
        D = noisy.contents.shape[1]
        decoder = QueryGroup("decoder", logits[:, :, D:], refined[:, :, D:], states[:, :, D:], tokens=start.tokens)
        denoising = QueryGroup("denoising", logits[:, :, :D], refined[:, :, :D], states[:, :, :D])
        denoising = replace(denoising, match=noisy.match(len(hidden)), counts=noisy.counts)
        return Output(decoder, (denoising, start.proposals), {"memory": memory}, maps)

    def positions(self, boxes: Tensor) -> Tensor:
        """Return the query positions (B, Q, C) of boxes (B, Q, 4) on the finest level."""
        cx, cy, w, h = boxes.unbind(-1)
        return self.place(self.code.encode(torch.stack([cy, cx, w, h], -1)).to(self.norm.weight.dtype))
