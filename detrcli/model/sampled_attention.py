"""Attention of Deformable DETR and DINO, recorded by hooks on their attention modules."""

from collections.abc import Sequence
from typing import Any

import torch

from detrcli.model.deformable_detr import DeformableDETR
from detrcli.model.deformable_transformer import DeformableAttention
from detrcli.model.dino import DINO
from detrcli.model.inspectable import Ability, AttentionInspectable, CallRecord, Sampled, Stage


class SampledRecord(CallRecord):
    """A forward pass whose attention is sampled."""

    def cross(self, layer: int, queries: Sequence[int]) -> Sampled:
        return self._sampled(self.inspected.cross[layer], queries)

    def encoder(self, layer: int, cells: Sequence[int]) -> Sampled:
        return self._sampled(self.inspected.among_cells[layer], cells)

    @torch.inference_mode()
    def _sampled(self, attention: DeformableAttention, indices: Sequence[int]) -> Sampled:
        """Compute the sampling points of some attending tokens by calling a part of the module again."""
        (queries, references, _, pyramid), _ = self.calls[attention]
        chosen = list(indices)
        references = references[:, chosen]  # (B, n, levels, 2 or 4)
        points, weights = attention.sampling(queries[:, chosen], references, pyramid)
        return Sampled(points, weights.float(), references[:, :, 0], self.cells)


class SampledInspectable(AttentionInspectable):
    """Access to the inside of Deformable DETR and DINO. Cells are those of the finest level."""

    record = SampledRecord

    def __init__(self, model: DeformableDETR | DINO) -> None:
        super().__init__(model, model.encoder.layers, model.decoder)
        self.sampling: list[DeformableAttention] = [*self.cross, *self.among_cells]
        self.heads = self.sampling[0].heads if self.sampling else 0
        of_encoder: frozenset[Ability] = frozenset({"encoder attention"} if self.among_cells else ())
        of_decoder: frozenset[Ability] = frozenset({"cross-attention", "query attention"} if self.cross else ())
        self.abilities = of_encoder | of_decoder
        queries = model.selection if isinstance(model, DINO) else model.queries
        self.proposer = getattr(queries, "proposer", None)

    def cells(self, record: CallRecord) -> tuple[int, int]:
        for attention in self.sampling:
            _, _, _, pyramid = record.calls[attention][0]
            return pyramid.shapes[0]
        return record.cells

    def stages(self) -> Sequence[Stage]:
        model, proposer = self.model, self.proposer
        levels = {"levels": len(model.pyramid.projections)}
        sampling = {"attention": "sampled", "points": self.sampling[0].points if self.sampling else 0}
        stages = [
            Stage("backbone", model.backbone, 3, pick=lambda maps: maps[-1]),
            Stage("levels", model.pyramid, 2, levels, pick=lambda pyramid: pyramid.tokens),
        ]
        if self.encoder_layers:
            stages.append(Stage("encoder", model.encoder, 2, {"layers": self.encoder_layers, **sampling}))
        if proposer is not None:
            stages.append(Stage("proposals", proposer.box_head.layers[-1], 2))
        if self.decoder_layers:
            queries = "learned" if proposer is None else "proposed"
            facts = {"layers": self.decoder_layers, "queries": queries, **sampling}
            stages.append(Stage("decoder", model.decoder[-1], 2, facts))
        heads: Any = model if self.decoder_layers or proposer is None else proposer
        per_layer = isinstance(heads, DeformableDETR)
        class_head = heads.class_heads[-1] if per_layer else heads.class_head
        box_head = heads.box_heads[-1] if per_layer else heads.box_head
        return [
            *stages,
            Stage("class head", class_head, 2),
            Stage("box head", box_head.layers[-1], 2, {"refines": True}),
        ]
