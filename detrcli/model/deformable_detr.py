"""Deformable DETR (arXiv 2010.04159), optionally with iterative box refinement and two stages."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrcli.model.backbone import Backbone
from detrcli.model.deformable_transformer import (
    DeformableAttention,
    DeformableDecoderLayer,
    DeformableEncoder,
    init_deformable,
    inverse_sigmoid,
)
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.model.heads import BoxHead, init_focal_heads
from detrcli.model.position import SinePosition
from detrcli.model.proposals import InitialQueries, Proposer, gather_tokens, topk_tokens
from detrcli.model.pyramid import Pyramid, PyramidInput
from detrcli.model.transformer import init_weights
from detrcli.structures import Batch, Output, QueryGroup, Target

EPS = 1e-5  # of the inverse sigmoid


class LearnedQueries(nn.Module):
    """Learned queries, the same for every image, with reference points."""

    def __init__(self, queries: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(queries, 2 * dim)  # position, then content
        self.reference = nn.Linear(dim, 2)
        nn.init.xavier_uniform_(self.reference.weight)
        nn.init.zeros_(self.reference.bias)

    def forward(self, memory: Tensor, _pyramid: Pyramid) -> InitialQueries:
        positions, contents = self.embedding.weight.expand(memory.shape[0], -1, -1).chunk(2, -1)
        return InitialQueries(contents, self.reference(positions).float(), positions)


class ProposedQueries(nn.Module):
    """Two stages: the best of all tokens' proposals become reference boxes; positions and contents encode them."""

    def __init__(self, queries: int, dim: int, rows: int, cells: float | None = None) -> None:
        super().__init__()
        self.number = queries
        self.proposer = Proposer(dim, rows, cells)
        self.code = SinePosition(dim)
        self.linear = nn.Linear(2 * dim, 2 * dim)
        self.norm = nn.LayerNorm(2 * dim)

    def forward(self, memory: Tensor, pyramid: Pyramid) -> InitialQueries:
        logits, boxes, _ = self.proposer(memory, pyramid)  # (B, S, R), (B, S, 4) before the sigmoid
        best = topk_tokens(logits[..., 0], self.number)  # (B, Q); the first logit means "an object"
        references = gather_tokens(boxes, best).detach()  # (B, Q, 4)
        code = self.code.encode(references.sigmoid()).to(memory.dtype)  # (B, Q, 2 C)
        positions, contents = self.norm(self.linear(code)).chunk(2, -1)
        proposals = QueryGroup("proposals", logits[None], boxes.sigmoid()[None])
        return InitialQueries(contents, references, positions, best, proposals)


class DeformableDETR(DetectionTransformer):
    """Deformable DETR, assembled from its parts.

    Without refinement all layers share a class head and a box head. With refinement each layer has its own heads, and
    its boxes are the references of the next layer. `rows` is the number of class logits.
    """

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
        """Return the level codes if no encoder layer uses them."""
        return [] if len(self.encoder.layers) else [self.pyramid.level_codes]

    def forward(self, batch: Batch, targets: Sequence[Target] | None = None) -> Output:
        maps = self.backbone(batch.images)
        pyramid = self.pyramid(maps, batch)
        memory = self.encoder(pyramid)  # (B, S, C)
        start = self.queries(memory, pyramid)

        x, references = start.contents, start.references.sigmoid()  # (B, Q, C), (B, Q, 2 or 4)
        hidden, logits, boxes = [], [], []
        for number, layer in enumerate(self.decoder):
            head = number if self.refine else 0
            x = layer(x, start.positions, references, memory, pyramid)
            reference = inverse_sigmoid(references, EPS)  # (B, Q, 2 or 4)
            box = cast("BoxHead", self.box_heads[head]).logits(x) + F.pad(reference, (0, 4 - reference.shape[-1]))
            hidden.append(x)
            logits.append(self.class_heads[head](x))
            boxes.append(box.sigmoid())
            if self.refine:
                references = boxes[-1].detach()
        decoder = QueryGroup(
            "decoder", torch.stack(logits), torch.stack(boxes), torch.stack(hidden), tokens=start.tokens
        )
        others = () if start.proposals is None else (_class_agnostic(start.proposals, targets),)
        return Output(decoder, others, {"memory": memory}, maps)


def _class_agnostic(proposals: QueryGroup, targets: Sequence[Target] | None) -> QueryGroup:
    """Supervise the proposals by objects of a single class."""
    if targets is None:
        return proposals
    objects = [Target(torch.zeros_like(target.labels), target.boxes) for target in targets]
    return replace(proposals, targets=objects)


def init_deformable_detr(detr: DeformableDETR) -> None:
    """Initialize Deformable DETR as published."""
    for part in (detr.encoder, detr.decoder):
        init_weights(part)
    init_projections(detr.pyramid)
    proposed = isinstance(detr.queries, ProposedQueries)
    for number, heads in enumerate(zip(detr.class_heads, detr.box_heads, strict=True)):
        init_focal_heads(*cast("tuple[nn.Linear, BoxHead]", heads), 0.0 if proposed or number else -2.0)
    if isinstance(detr.queries, ProposedQueries):
        init_proposer(detr.queries.proposer)
        nn.init.xavier_uniform_(detr.queries.linear.weight)
    init_attentions(detr)


def init_projections(pyramid: PyramidInput) -> None:
    """Initialize the projections of the backbone's maps as published."""
    for projection in pyramid.projections.modules():
        if isinstance(projection, nn.Conv2d):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(cast("Tensor", projection.bias))


def init_proposer(proposer: Proposer) -> None:
    """Initialize the proposals as published: their boxes equal their anchors."""
    nn.init.xavier_uniform_(proposer.input.linear.weight)
    init_focal_heads(proposer.class_head, proposer.box_head)


def init_attentions(model: nn.Module) -> None:
    """Initialize all deformable attention as published."""
    for module in model.modules():
        if isinstance(module, DeformableAttention):
            init_deformable(module)
