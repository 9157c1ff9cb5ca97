"""Looking into the members that attend by sampled points: hooks on their own attention modules, all of them here."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from detrcli.model.deformable_attention import DeformableAttention
from detrcli.model.deformable_detr import DeformableDETR, ProposedQueries
from detrcli.model.deformable_transformer import DeformableDecoderLayer, DeformableEncoderLayer
from detrcli.model.dino import DINO
from detrcli.model.inspectable import Ability, ForwardRecord, Inspectable, Sampled, Shape, Stage
from detrcli.model.proposals import Proposer
from detrcli.model.pyramid import Pyramid
from detrcli.structures import Output


@dataclass(frozen=True)
class Call:
    """What an attention module was asked."""

    attention: DeformableAttention
    queries: Tensor  # (B, Q, C)
    references: Tensor  # (B, Q, levels, 2 or 4)
    pyramid: Pyramid

    def sampled(self, askers: Sequence[int]) -> Sampled:
        """Where some of the askers look: the same module, asked again."""
        chosen = list(askers)
        references = self.references[:, chosen]
        points, weights = self.attention.sampling(self.queries[:, chosen], references, self.pyramid)
        return Sampled(points, weights.float(), references[:, :, 0], self.pyramid.shapes[0])


class SampledRecord(ForwardRecord):
    """The calls of all attention modules."""

    def __init__(self, inspected: "SampledInspectable") -> None:
        self._inspected = inspected
        self.calls: dict[DeformableAttention, Call] = {}
        self.among: dict[nn.MultiheadAttention, Tensor] = {}  # what queries bring with them, (B, Q, C)
        self.contents: dict[nn.MultiheadAttention, Tensor] = {}

    @torch.inference_mode()
    def cross(self, layer: int, queries: Sequence[int]) -> Sampled:
        return self.calls[self._inspected.cross[layer]].sampled(queries)

    @torch.inference_mode()
    def encoder(self, layer: int, cells: Sequence[int]) -> Sampled:
        return self.calls[self._inspected.among_cells[layer]].sampled(cells)

    @torch.inference_mode()
    def among_queries(self, layer: int) -> Tensor:
        attention = self._inspected.among_queries[layer]
        asking = self.among[attention]
        _, weights = attention(asking, asking, self.contents[attention], need_weights=True, average_attn_weights=False)
        return cast("Tensor", weights)

    def queries_are_alike(self, layer: int) -> bool:
        contents = self.contents[self._inspected.among_queries[layer]]
        return bool((contents == contents[:, :1]).all())


class SampledInspectable(Inspectable):
    """How to look into Deformable DETR and DINO. A cell is one of the finest level."""

    def __init__(self, model: DeformableDETR | DINO) -> None:
        self.model = model
        encoder = cast("Sequence[DeformableEncoderLayer]", model.encoder.layers)
        decoder = cast("Sequence[DeformableDecoderLayer]", model.decoder)
        self.among_cells = [layer.self_attention for layer in encoder]
        self.among_queries = [layer.self_attention for layer in decoder]
        self.cross = [layer.cross_attention for layer in decoder]
        self.encoder_layers, self.decoder_layers = len(self.among_cells), len(self.cross)
        self.heads = (*self.cross, *self.among_cells)[0].heads if self.cross or self.among_cells else 0
        of_encoder: frozenset[Ability] = frozenset({"encoder attention"} if self.among_cells else ())
        of_decoder: frozenset[Ability] = frozenset({"cross-attention", "query attention"} if self.cross else ())
        self.abilities = of_encoder | of_decoder

    @contextmanager
    def recorded(self) -> Iterator[SampledRecord]:
        record = SampledRecord(self)

        def asked(module: DeformableAttention, args: tuple[Any, ...]) -> None:
            queries, references, _, pyramid = args
            record.calls[module] = Call(module, queries, references, pyramid)
            record.cells = pyramid.shapes[0]

        def asked_each_other(module: nn.MultiheadAttention, args: tuple[Tensor, ...], _kwargs: Any) -> None:
            record.among[module], record.contents[module] = args[0], args[2]

        def answered(_module: nn.Module, _inputs: Any, output: Output) -> None:
            record.output = output

        handles = [
            self.model.register_forward_hook(answered),
            *(one.register_forward_pre_hook(asked) for one in (*self.among_cells, *self.cross)),
            *(one.register_forward_pre_hook(asked_each_other, with_kwargs=True) for one in self.among_queries),
        ]
        try:
            yield record
        finally:
            for handle in handles:
                handle.remove()

    def stages(self) -> Sequence[Stage]:
        model, encoder, decoder = self.model, self.encoder_layers, self.decoder_layers
        levels = model.pyramid.level_codes.shape[0]
        points = next((one.points for one in (*self.cross, *self.among_cells)), 0)

        def maps(own: Shape, _before: Mapping[str, Shape]) -> str:
            return f"convolutions sum up the picture; the coarsest map has {own[0]:,} numbers for each of its cells"

        stages = [
            Stage("backbone", model.backbone, 3, maps, pick=lambda found: found[-1]),
            Stage(
                "levels",
                model.pyramid,
                2,
                lambda own, _: (
                    f"{levels} map{'s' * (levels > 1)} of {own[1]} numbers a cell, the finest first, in one row of "
                    f"{own[0]:,} tokens; each is told its level, its row and its column"
                ),
                pick=lambda pyramid: pyramid.tokens,
            ),
        ]
        if encoder:
            stages.append(
                Stage(
                    "encoder",
                    model.encoder,
                    2,
                    lambda *_: (
                        f"in {encoder} layers each token takes from {points} points of every level around itself"
                    ),
                )
            )
        proposer = self._proposer()
        if proposer is not None:
            stages.append(
                Stage(
                    "proposals",
                    proposer.box_head.layers[-1],
                    2,
                    lambda own, _: (
                        f"each of the {own[0]:,} tokens proposes a box and says how likely it holds an object"
                    ),
                )
            )
        if decoder:
            stages.append(
                Stage(
                    "decoder",
                    model.decoder[-1],
                    2,
                    lambda own, _: (
                        f"{own[0]} object queries"
                        + (", begun at the best proposals" if proposer else ", learned slots for an object each")
                        + f": in {decoder} layers they gather from each other, then from {points} points a level"
                    ),
                )
            )
        return [
            *stages,
            Stage(
                "class head",
                self._class_head(),
                2,
                lambda own, _: (
                    f"per query a number for each of {own[1]} classes, which become probabilities one by one"
                ),
            ),
            Stage(
                "box head",
                self._box_head(),
                2,
                lambda *_: "per query how its box moves: centre x, centre y, width and height as shares of the picture",
            ),
        ]

    def _proposer(self) -> Proposer | None:
        if isinstance(self.model, DINO):
            return self.model.selection.proposer
        queries = self.model.queries
        return queries.proposer if isinstance(queries, ProposedQueries) else None

    def _class_head(self) -> nn.Module:
        proposer = self._proposer()
        if not self.cross and proposer is not None:
            return proposer.class_head
        return self.model.class_head if isinstance(self.model, DINO) else self.model.class_heads[-1]

    def _box_head(self) -> nn.Module:
        proposer = self._proposer()
        if not self.cross and proposer is not None:
            return proposer.box_head.layers[-1]
        head = self.model.box_head if isinstance(self.model, DINO) else self.model.box_heads[-1]
        return cast("nn.Module", cast("Any", head).layers[-1])
