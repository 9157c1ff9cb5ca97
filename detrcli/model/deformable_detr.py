"""Deformable DETR (arXiv 2010.04159), optionally with iterative box refinement and two stages."""

from collections.abc import Iterable, Sequence
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
    inverse_sigmoid,
)
from detrcli.model.detection_transformer import BoxHead, DetectionTransformer, init_focal_heads
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
    """Two stages: the best proposals become reference boxes, and their codes the positions and contents."""

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
        proposed = isinstance(queries, ProposedQueries)
        linears = [queries.proposer.input[0], queries.linear] if isinstance(queries, ProposedQueries) else []
        init_deformable(self, [encoder, self.decoder], pyramid, linears)
        for i, head in enumerate(zip(self.class_heads, self.box_heads, strict=True)):
            init_focal_heads(*cast("tuple[nn.Linear, BoxHead]", head), 0.0 if proposed or i else -2.0)

    def unused_parameters(self) -> Sequence[nn.Parameter]:
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
        proposals = start.proposals
        if proposals is not None and targets is not None:  # supervised by objects of a single class
            objects = [Target(torch.zeros_like(target.labels), target.boxes) for target in targets]
            proposals = replace(proposals, targets=objects)
        return Output(decoder, () if proposals is None else (proposals,), {"memory": memory}, maps)


def init_deformable(
    model: nn.Module, parts: Iterable[nn.Module], pyramid: PyramidInput, linears: Iterable[nn.Module]
) -> None:
    """Initialize a deformable detector as published: parts of its transformer, its pyramid, linears, attention."""
    for part in parts:
        init_weights(part)
    for module in pyramid.projections.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(cast("Tensor", module.bias))
    for linear in linears:
        init_weights(linear)
    for module in model.modules():
        if isinstance(module, DeformableAttention):
            module.reset_parameters()
        elif isinstance(module, Proposer):  # the boxes of proposals equal their anchors
            init_focal_heads(module.class_head, module.box_head)
