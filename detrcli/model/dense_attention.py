"""Looking into the members whose attention is dense: hooks on their own attention modules, all of them here."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.model.detr import DETR
from detrcli.model.inspectable import Dense, ForwardRecord, GradientRecord, Inspectable, Shape, Stage
from detrcli.model.refinement import IterativeRefinementDETR
from detrcli.structures import Output


@dataclass(frozen=True)
class Call:
    """What an attention module was asked."""

    attention: nn.MultiheadAttention
    queries: Tensor  # (B, A, C)
    keys: Tensor  # (B, S, C)
    values: Tensor  # (B, S, C)
    padding: Tensor | None  # (B, S)

    def weights(self, askers: Sequence[int]) -> Tensor:
        """How some of the askers share out their attention, (B, heads, n, S): the same module, asked again."""
        _, weights = self.attention(
            self.queries[:, list(askers)],
            self.keys,
            self.values,
            key_padding_mask=self.padding,
            need_weights=True,
            average_attn_weights=False,
        )
        return weights


class DenseRecord(ForwardRecord):
    """The calls of all attention modules."""

    def __init__(self, inspected: "DenseInspectable") -> None:
        self._inspected = inspected
        self.calls: dict[nn.MultiheadAttention, Call] = {}

    @torch.inference_mode()
    def cross(self, layer: int, queries: Sequence[int]) -> Dense:
        return self._as_maps(self.calls[self._inspected.cross[layer]].weights(queries))

    @torch.inference_mode()
    def encoder(self, layer: int, cells: Sequence[int]) -> Dense:
        return self._as_maps(self.calls[self._inspected.among_cells[layer]].weights(cells))

    @torch.inference_mode()
    def among_queries(self, layer: int) -> Tensor:
        call = self.calls[self._inspected.among_queries[layer]]
        return call.weights(range(call.queries.shape[1]))

    def queries_are_alike(self, layer: int) -> bool:
        """So it is in the first layer of the published DETR, where contents start at zero."""
        values = self.calls[self._inspected.among_queries[layer]].values  # (B, Q, C)
        return bool((values == values[:, :1]).all())

    def _as_maps(self, weights: Tensor) -> Dense:
        B, heads, n, _ = weights.shape
        return Dense(weights.transpose(1, 2).reshape(B, n, heads, *self.cells))


class DenseInspectable(Inspectable):
    """How to look into DETR, and into DETR with refinement."""

    abilities = frozenset({"cross-attention", "encoder attention", "query attention", "relevance"})

    def __init__(self, model: DETR | IterativeRefinementDETR) -> None:
        self.model: DetectionTransformer = model
        self._parts = model
        encoder, decoder = model.encoder.layers, model.decoder.layers
        self.among_cells = [cast("nn.MultiheadAttention", layer.self_attention) for layer in encoder]
        self.among_queries = [cast("nn.MultiheadAttention", layer.self_attention) for layer in decoder]
        self.cross = [cast("nn.MultiheadAttention", layer.cross_attention) for layer in decoder]
        self.encoder_layers, self.decoder_layers = len(self.among_cells), len(self.cross)
        self.heads = self.cross[0].num_heads

    @property
    def attentions(self) -> list[nn.MultiheadAttention]:
        """All of them."""
        return [*self.among_cells, *self.among_queries, *self.cross]

    @contextmanager
    def recorded(self) -> Iterator[DenseRecord]:
        record = DenseRecord(self)

        def asked(module: nn.MultiheadAttention, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
            queries, keys, values = args
            record.calls[module] = Call(module, queries, keys, values, kwargs["key_padding_mask"])

        def projected(_module: nn.Module, _inputs: Any, features: Tensor) -> None:
            height, width = features.shape[-2:]
            record.cells = height, width

        def answered(_module: nn.Module, _inputs: Any, output: Output) -> None:
            record.output = output

        handles = [
            self._parts.projection.register_forward_hook(projected),
            self.model.register_forward_hook(answered),
            *(module.register_forward_pre_hook(asked, with_kwargs=True) for module in self.attentions),
        ]
        try:
            yield record
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def with_gradient(self) -> Iterator[Callable[[], GradientRecord]]:
        """Each module gathers by the weights that it returns; what it gathers is the same.

        The graph begins behind the backbone.
        """
        seen: dict[nn.MultiheadAttention, Tensor] = {}  # weights (B, heads, A, S)
        cells: list[tuple[int, int]] = []

        def weigh(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return args, {**kwargs, "need_weights": True, "average_attn_weights": False}

        def begin(_module: nn.Module, _args: Any, features: Tensor) -> Tensor:
            height, width = features.shape[-2:]
            cells[:] = [(height, width)]
            return features.detach()

        def gather(module: nn.MultiheadAttention, args: tuple[Tensor, ...], output: Any) -> Any:
            weights: Tensor = output[1]
            if not weights.requires_grad:
                weights.requires_grad_()
            seen[module] = weights
            projection, bias = module.in_proj_weight.chunk(3)[2], module.in_proj_bias.chunk(3)[2]
            B, S, _ = args[2].shape
            values = F.linear(args[2], projection, bias).view(B, S, module.num_heads, -1).transpose(1, 2)
            return module.out_proj((weights @ values).transpose(1, 2).flatten(2)), weights

        handles = [self._parts.projection.register_forward_hook(begin)]
        for module in self.attentions:
            handles += [module.register_forward_pre_hook(weigh, with_kwargs=True), module.register_forward_hook(gather)]
        try:
            yield lambda: GradientRecord(
                cells[0],
                [seen[module] for module in self.among_cells],
                [(seen[a], seen[b]) for a, b in zip(self.among_queries, self.cross, strict=True)],
            )
        finally:
            for handle in handles:
                handle.remove()

    def stages(self) -> Sequence[Stage]:
        parts, encoder, decoder = self._parts, self.encoder_layers, self.decoder_layers
        rows = parts.class_head.out_features

        def cell(own: Shape, before: Mapping[str, Shape]) -> str:
            # Edges are rounded up to whole cells, which tells most where the picture is long.
            pixels = 2 ** round(math.log2(max(before["picture"][axis] / own[axis] for axis in (1, 2))))
            return (
                f"convolutions sum up the picture in {own[0]:,} numbers for each cell of {pixels} x {pixels} pixels, "
                "with what they see around it"
            )

        return [
            Stage("backbone", parts.backbone, 3, cell, pick=lambda maps: maps[-1]),
            Stage(
                "projection",
                parts.projection,
                3,
                lambda own, _: f"the same cells with {own[0]} numbers each, the width of all that follows",
            ),
            Stage(
                "position",
                parts.position,
                3,
                lambda *_: "a code of each cell's row and column, added where cells are compared: else order is lost",
            ),
            Stage(
                "encoder",
                parts.encoder,
                2,
                lambda own, _: (
                    f"the {own[0]:,} cells in a row: in {encoder} layers each gathers from all others what matters "
                    "to it (attention)"
                ),
            ),
            Stage(
                "decoder",
                parts.decoder.layers[-1],
                2,
                lambda own, _: (
                    f"{own[0]} object queries, learned slots for one object each: in {decoder} layers they gather "
                    "from each other, then from the cells"
                ),
            ),
            Stage(
                "class head",
                parts.class_head,
                2,
                lambda *_: (
                    f'per query a number for each of {rows - 1} classes and one for "no object", which become '
                    "probabilities"
                ),
            ),
            Stage(
                "box head",
                parts.box_head.layers[-1],
                2,
                lambda *_: "per query a box: centre x, centre y, width and height as shares of the picture",
            ),
        ]
