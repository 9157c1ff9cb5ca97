"""Attention of transformers' networks, recorded by hooks on their attention modules.

A record keeps the inputs of each module. The module computes again, with its weights, when its attention is requested.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from detrcli.architectures.adapters.network import AdaptedNetwork
from detrcli.architectures.adapters.other_networks import OpenVocabularyNetwork
from detrcli.architectures.adapters.stages import stages_of
from detrcli.errors import UsageError
from detrcli.model.inspectable import (
    Ability,
    Attention,
    Dense,
    ForwardRecord,
    GradientRecord,
    Inspectable,
    Sampled,
    Stage,
)
from detrcli.structures import Output

TokenKind = Literal["cells", "queries"]
# Names of the argument with the values that an attention module combines.
VALUES = ("value_states", "values", "hidden_states")


@dataclass(frozen=True)
class Call:
    """A call of an attention module."""

    module: nn.Module
    inputs: Mapping[str, Any]  # arguments by name

    def repeat(self) -> tuple[Tensor, Tensor]:
        """Return the output and the attention weights."""
        with returning_weights(self.module):
            output = self.module(**self.inputs)
        return output[0], output[1]

    def sampled(self) -> Sampled:
        """Return the sampling points and weights of all queries."""
        module: Any = self.module
        captured: dict[str, Tensor] = {}
        with module.sampling_offsets.register_forward_hook(lambda _m, _i, out: captured.update(offsets=out)):
            _, weights = self.repeat()
        shapes = [(int(h), int(w)) for h, w in self.inputs["spatial_shapes_list"]]
        counts = points_per_level(module, len(shapes))
        B, n = weights.shape[:2]
        weights = weights.reshape(B, n, module.n_heads, sum(counts))
        offsets = captured["offsets"].view(B, n, module.n_heads, sum(counts), 2)
        levels = [level for level, count in enumerate(counts) for _ in range(count)]
        references = self.inputs["reference_points"]  # (B, n, levels or 1, 2 or 4)
        if references.dim() == 3:
            references = references[:, :, None]
        at_level = references.expand(B, n, len(shapes), references.shape[-1])[:, :, levels]  # (B, n, points, 2 or 4)
        if references.shape[-1] == 2:
            offsets = offsets / offsets.new_tensor([(w, h) for h, w in shapes])[levels]  # (points, 2)
        else:
            shares = offsets.new_tensor([1 / count for count in counts for _ in range(count)])[:, None]
            scale = float(getattr(module, "offset_scale", 0.5))
            offsets = offsets * shares * at_level[:, :, None, :, 2:] * scale
        points = at_level[:, :, None, :, :2] + offsets  # (B, n, heads, all points, 2)
        return Sampled(by_level(points, counts), by_level(weights, counts), references[:, :, 0], shapes[0])


def points_per_level(module: Any, levels: int) -> list[int]:
    """Return how many points a head samples on each level."""
    count = module.n_points
    return list(count) if isinstance(count, list | tuple) else [int(count)] * levels


def by_level(values: Tensor, counts: Sequence[int]) -> Tensor:
    """Split (B, n, heads, all points, ...) into levels: (B, n, heads, levels, points, ...).

    Levels with fewer points are padded with zeros.
    """
    maximum = max(counts)
    rows: Sequence[Tensor] = torch.split(values, list(counts), 3)
    padded = [
        torch.cat([row, row.new_zeros(*row.shape[:3], maximum - row.shape[3], *row.shape[4:])], 3) for row in rows
    ]
    return torch.stack(padded, 3)


@contextmanager
def returning_weights(module: nn.Module) -> Iterator[None]:
    """Let an attention module compute without fused kernels, which do not return the weights."""
    config: Any = getattr(module, "config", None)
    if "output_attentions" in inspect.signature(module.forward).parameters:  # it returns them on request
        with module.register_forward_pre_hook(
            lambda _m, args, kwargs: (args, {**kwargs, "output_attentions": True}), with_kwargs=True
        ):
            yield
    elif config is None:  # it samples points, and always returns their weights
        yield
    else:
        before = config._attn_implementation
        config._attn_implementation = "eager"
        try:
            yield
        finally:
            config._attn_implementation = before


def named_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call of `forward` by name."""
    named = dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)
    return named | named.pop("kwargs", {})


@dataclass(frozen=True)
class TokenRow:
    """The places of cells and queries among the tokens of an encoder without a decoder. The first token is neither."""

    cells: slice
    queries: slice


class TransformersRecord(ForwardRecord):
    """The calls of all attention modules in a forward pass."""

    def __init__(self, inspected: "TransformersInspectable") -> None:
        self._inspected = inspected
        self.calls: dict[nn.Module, Call] = {}
        self.map: tuple[int, int] | None = None  # rows and columns of the map that dense attention covers

    @property
    def encoder_cells(self) -> tuple[int, int]:
        # In RT-DETR and its successors the encoder attends on the coarsest level alone.
        return self.cells if self.map is None or self._inspected.encoder_kind == "sampled" else self.map

    @torch.inference_mode()
    def cross(self, layer: int, queries: Sequence[int]) -> Attention:
        call = self.calls[self._inspected.cross[layer]]
        if self._inspected.kind == "sampled":
            return _part(call.sampled(), queries)
        weights = self._weights(call, "queries", "cells")  # (B, heads, Q, S)
        return _maps(weights[:, :, list(queries)], self.cells)

    @torch.inference_mode()
    def encoder(self, layer: int, cells: Sequence[int]) -> Attention:
        call = self.calls[self._inspected.among_cells[layer]]
        if self._inspected.encoder_kind == "sampled":
            return _part(call.sampled(), cells)
        weights = self._weights(call, "cells", "cells")  # (B, heads, S, S)
        return _maps(weights[:, :, list(cells)], self.encoder_cells)

    @torch.inference_mode()
    def among_queries(self, layer: int) -> Tensor:
        return self._weights(self.calls[self._inspected.among_queries[layer]], "queries", "queries")

    def queries_are_alike(self, layer: int) -> bool:
        inputs = self.calls[self._inspected.among_queries[layer]].inputs
        values: Tensor = next(inputs[name] for name in VALUES if name in inputs)
        return self._inspected.row is None and bool((values == values[:, :1]).all())

    def _weights(self, call: Call, sources: TokenKind, targets: TokenKind) -> Tensor:
        """Return attention weights (B, heads, A, S), in a row of tokens normalized over those of a kind."""
        _, weights = call.repeat()
        if self._inspected.row is None:
            return weights
        part = weights[:, :, getattr(self._inspected.row, sources), getattr(self._inspected.row, targets)]
        return part / part.sum(-1, keepdim=True)


def _part(sampled: Sampled, queries: Sequence[int]) -> Sampled:
    chosen = list(queries)
    return Sampled(
        sampled.points[:, chosen], sampled.weights[:, chosen].float(), sampled.references[:, chosen], sampled.cells
    )


def _maps(weights: Tensor, cells: tuple[int, int]) -> Dense:
    B, heads, n, _ = weights.shape
    return Dense(weights.transpose(1, 2).reshape(B, n, heads, *cells))


class TransformersInspectable(Inspectable):
    """Access to the attention and the stages of a detector of any family."""

    def __init__(self, model: AdaptedNetwork | OpenVocabularyNetwork) -> None:
        modules = model.family.attentions
        self.model = model
        self.kind, self.encoder_kind = modules.kind, modules.encoder_kind
        self.cross = model.modules_of(modules.cross)
        self.row: TokenRow | None = None
        if modules.queries == "after cells":
            assert isinstance(model, AdaptedNetwork)
            self.row = TokenRow(slice(1, -model.queries), slice(-model.queries, None))
            self.looks_by = "encoder self-attention"
        elif modules.queries == "cells":
            self.row = TokenRow(slice(1, None), slice(1, None))
            # The heads read the tokens of the last layer, and were trained on no others.
            self.cross, self.looks_by = self.cross[-1:], "self-attention in the encoder's last layer"
        self.among_queries = model.modules_of(modules.among_queries)
        self.among_cells = model.modules_of(modules.encoder)
        self.encoder_layers, self.decoder_layers = len(self.among_cells), len(self.cross)
        self.heads = _heads(self.cross[0])
        abilities: dict[Ability, bool] = {
            "cross-attention": True,
            "query attention": bool(self.among_queries),
            "encoder attention": bool(self.among_cells),
            "relevance": self.kind == "dense" and self.row is None,
        }
        self.abilities = frozenset(ability for ability, present in abilities.items() if present)
        self._projection = next(iter(model.modules_of(modules.projection)), None)

    def stages(self) -> Sequence[Stage]:
        if isinstance(self.model, OpenVocabularyNetwork):
            raise UsageError("`detr explain` does not take models whose classes are phrases.")
        return stages_of(self.model, self.decoder_layers, in_one_row=self.row is not None)

    @property
    def attentions(self) -> list[nn.Module]:
        """All attention modules."""
        return list(dict.fromkeys([*self.among_cells, *self.among_queries, *self.cross]))

    @contextmanager
    def recorded(self) -> Iterator[TransformersRecord]:
        record = TransformersRecord(self)

        def record_call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            inputs = named_arguments(module, args, kwargs)
            record.calls[module] = Call(module, inputs)
            if "spatial_shapes_list" in inputs:
                h, w = inputs["spatial_shapes_list"][0]  # the finest level
                record.cells = int(h), int(w)

        def record_output(_module: nn.Module, _inputs: Any, output: Output) -> None:
            record.output = output

        def record_map(_module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            record.map = self._rows_and_columns(inputs, output)
            if self.kind == "dense":
                record.cells = record.map

        with ExitStack() as hooks:
            hooks.enter_context(self.model.register_forward_hook(record_output))
            for module in self.attentions:
                hooks.enter_context(module.register_forward_pre_hook(record_call, with_kwargs=True))
            if self._projection is not None:
                hooks.enter_context(self._projection.register_forward_hook(record_map))
            yield record

    def _rows_and_columns(self, inputs: tuple[Any, ...], output: Tensor) -> tuple[int, int]:
        if output.dim() == 4:
            return int(output.shape[2]), int(output.shape[3])
        patch: Any = self.model.network.config.patch_size  # patches as a row of tokens (B, S, C)
        height, width = patch if isinstance(patch, list | tuple) else (patch, patch)
        return int(inputs[0].shape[2] // height), int(inputs[0].shape[3] // width)

    @contextmanager
    def with_gradient(self) -> Iterator[Callable[[], GradientRecord]]:
        """Record attention weights that are part of the graph, which starts behind the backbone."""
        self.require("relevance")
        weights: dict[nn.Module, Tensor] = {}  # (B, heads, A, S)
        cells: list[tuple[int, int]] = []

        def start_graph(_module: nn.Module, _args: Any, features: Tensor) -> Tensor:
            cells[:] = [(int(features.shape[2]), int(features.shape[3]))]
            return features.detach()

        def record_weights(module: nn.Module, _args: Any, output: Any) -> None:
            weights[module] = output[1]

        assert self._projection is not None
        with ExitStack() as hooks:
            hooks.enter_context(self._projection.register_forward_hook(start_graph))
            for module in self.attentions:
                hooks.enter_context(returning_weights(module))
                hooks.enter_context(module.register_forward_hook(record_weights))
            yield lambda: GradientRecord(
                cells[0],
                [weights[module] for module in self.among_cells],
                [(weights[a], weights[b]) for a, b in zip(self.among_queries, self.cross, strict=True)],
            )


def _heads(module: Any) -> int:
    for name in ("n_heads", "num_heads", "num_attention_heads", "attention_heads"):
        if hasattr(module, name):
            return int(getattr(module, name))
    return int(module.q_proj.out_features // module.head_dim)
