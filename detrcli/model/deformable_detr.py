"""Deformable DETR (arXiv 2010.04159): several levels, sampled attention; with refinement; in two stages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrcli.model.backbone import Backbone
from detrcli.model.deformable_attention import DeformableAttention, init_deformable
from detrcli.model.deformable_transformer import DeformableDecoderLayer, DeformableEncoder, inverse_sigmoid
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.model.heads import BoxHead, init_focal_heads
from detrcli.model.position import SinePosition
from detrcli.model.proposals import Proposer, gather_tokens, topk_tokens
from detrcli.model.pyramid import Pyramid, PyramidInput
from detrcli.model.transformer import init_weights
from detrcli.structures import Batch, Output, QueryGroup, Target

EPS = 1e-5  # of the inverse sigmoid


@dataclass(frozen=True)
class QueryStart:
    """The queries before the first decoder layer."""

    contents: Tensor  # (B, Q, C)
    positions: Tensor  # (B, Q, C)
    references: Tensor  # (B, Q, 2 or 4), in [0, 1]
    proposals: tuple[Tensor, Tensor] | None = None  # of all tokens: logits (B, S, R), boxes (B, S, 4)
    tokens: Tensor | None = None  # (B, Q), those that were chosen


class LearnedQueries(nn.Module):
    """The same queries for every picture, each with a learned place."""

    def __init__(self, queries: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(queries, 2 * dim)  # position, then content
        self.reference = nn.Linear(dim, 2)
        nn.init.xavier_uniform_(self.reference.weight)
        nn.init.zeros_(self.reference.bias)

    def forward(self, memory: Tensor, _pyramid: Pyramid) -> QueryStart:
        positions, contents = self.embedding.weight.expand(memory.shape[0], -1, -1).chunk(2, -1)
        return QueryStart(contents, positions, self.reference(positions).float().sigmoid())


class ProposedQueries(nn.Module):
    """Every token proposes a box (two stages); the best become queries, which learn all else from their boxes."""

    def __init__(self, queries: int, dim: int, rows: int, cells: float | None = None) -> None:
        super().__init__()
        self.number = queries
        self.proposer = Proposer(dim, rows, cells)
        self.code = SinePosition(dim)
        self.linear = nn.Linear(2 * dim, 2 * dim)
        self.norm = nn.LayerNorm(2 * dim)

    def forward(self, memory: Tensor, pyramid: Pyramid) -> QueryStart:
        logits, boxes, _ = self.proposer(memory, pyramid)  # (B, S, R), (B, S, 4)
        # The first row says "an object", whatever its class.
        best = topk_tokens(logits[..., 0], self.number)  # (B, Q)
        references = gather_tokens(boxes, best).detach().sigmoid()  # (B, Q, 4)
        code = self.code.encode(references).to(memory.dtype)  # (B, Q, 2 C)
        positions, contents = self.norm(self.linear(code)).chunk(2, -1)
        return QueryStart(contents, positions, references, (logits, boxes.sigmoid()), best)


class DeformableDETR(DetectionTransformer):
    """One head of each kind for all layers; with refinement one for each, whose boxes the next layer begins at."""

    def __init__(
        self,
        *,
        backbone: Backbone,
        pyramid: PyramidInput,
        encoder: DeformableEncoder,
        queries: LearnedQueries | ProposedQueries,
        layers: Sequence[DeformableDecoderLayer],
        dim: int,
        rows: int,
        refine: bool,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pyramid = pyramid
        self.encoder = encoder
        self.queries = queries
        self.decoder = nn.ModuleList(layers)
        heads = len(layers) if refine else 1
        self.refine = refine
        self.class_heads = nn.ModuleList(nn.Linear(dim, rows) for _ in range(heads))
        self.box_heads = nn.ModuleList(BoxHead(dim) for _ in range(heads))
        init_deformable_detr(self)

    def without_gradient(self) -> Sequence[nn.Parameter]:
        """An encoder without layers asks for no positions."""
        return [] if len(self.encoder.layers) else [self.pyramid.level_codes]

    def forward(self, batch: Batch, targets: Sequence[Target] | None = None) -> Output:
        maps = self.backbone(batch.images)
        pyramid = self.pyramid(maps, batch)
        memory = self.encoder(pyramid)  # (B, S, C)
        start = self.queries(memory, pyramid)

        x, references = start.contents, start.references
        hidden, logits, boxes = [], [], []
        for number, layer in enumerate(self.decoder):
            own = number if self.refine else 0
            x = layer(x, start.positions, references, memory, pyramid)
            begun = inverse_sigmoid(references, EPS)  # (B, Q, 2 or 4)
            moved = cast("BoxHead", self.box_heads[own]).logits(x) + F.pad(begun, (0, 4 - begun.shape[-1]))
            hidden.append(x)
            logits.append(self.class_heads[own](x))
            boxes.append(moved.sigmoid())
            if self.refine:
                references = boxes[-1].detach()
        decoder = QueryGroup(
            "decoder", torch.stack(logits), torch.stack(boxes), torch.stack(hidden), tokens=start.tokens
        )
        return Output(decoder, _proposals(start, targets), {"memory": memory}, maps)


def _proposals(start: QueryStart, targets: Sequence[Target] | None) -> tuple[QueryGroup, ...]:
    """All proposals as a group, which is asked for objects of one class."""
    if start.proposals is None:
        return ()
    logits, boxes = start.proposals
    own = None if targets is None else [Target(torch.zeros_like(one.labels), one.boxes) for one in targets]
    return (QueryGroup("proposals", logits[None], boxes[None], targets=own),)


def init_deformable_detr(detr: DeformableDETR) -> None:
    """Every random start, as published."""
    for part in (detr.encoder, detr.decoder):
        init_weights(part)
    init_projections(detr.pyramid)
    proposed = isinstance(detr.queries, ProposedQueries)
    for number, heads in enumerate(zip(detr.class_heads, detr.box_heads, strict=True)):
        init_focal_heads(*cast("tuple[nn.Linear, BoxHead]", heads), 0.0 if proposed or number else -2.0)
    if isinstance(detr.queries, ProposedQueries):
        init_proposer(detr.queries.proposer)
        nn.init.xavier_uniform_(detr.queries.linear.weight)
    for module in detr.modules():
        if isinstance(module, DeformableAttention):
            init_deformable(module)


def init_projections(pyramid: PyramidInput) -> None:
    """The same for the projections of the backbone's maps."""
    for projection in pyramid.projections.modules():
        if isinstance(projection, nn.Conv2d):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(cast("Tensor", projection.bias))


def init_proposer(proposer: Proposer) -> None:
    """The same for proposals, whose boxes begin as their anchors."""
    nn.init.xavier_uniform_(proposer.input.linear.weight)
    init_focal_heads(proposer.class_head, proposer.box_head)
