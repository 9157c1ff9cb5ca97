"""Looking into the networks of transformers: hooks on their attention modules, all of them here.

A module is recorded with what it was asked, and asked again, by the code that gives its weights, when somebody looks.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detrcli.architectures.adapters.base import TransformersNetwork
from detrcli.architectures.adapters.families import Attentions
from detrcli.architectures.adapters.network import AdaptedNetwork
from detrcli.architectures.adapters.open_vocabulary import OpenVocabularyNetwork
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


@dataclass(frozen=True)
class Call:
    """What an attention module was asked."""

    module: nn.Module
    given: Mapping[str, Any]  # its arguments, by name

    def again(self) -> tuple[Tensor, Tensor]:
        """What it gathers, and the weights by which it does."""
        with giving_weights(self.module):
            answer = self.module(**self.given)
        return answer[0], answer[1]

    def sampled(self) -> Sampled:
        """Where all its queries take their samples."""
        given = self.given
        module: Any = self.module
        heard: dict[str, Tensor] = {}
        handle = module.sampling_offsets.register_forward_hook(lambda _m, _i, out: heard.update(offsets=out))
        try:
            _, weights = self.again()
        finally:
            handle.remove()
        shapes = [(int(h), int(w)) for h, w in given["spatial_shapes_list"]]
        counts = points_of(module, len(shapes))
        B, n = weights.shape[:2]
        heads = module.n_heads
        weights = weights.reshape(B, n, heads, sum(counts))
        offsets = heard["offsets"].view(B, n, heads, sum(counts), 2)
        levels = [level for level, count in enumerate(counts) for _ in range(count)]
        references = given["reference_points"]  # (B, n, levels or 1, 2 or 4)
        if references.dim() == 3:
            references = references[:, :, None]
        beside = references.expand(B, n, len(shapes), references.shape[-1])[:, :, levels]  # (B, n, points, 2 or 4)
        if references.shape[-1] == 2:
            sizes = offsets.new_tensor([(w, h) for h, w in shapes])[levels]  # (points, 2)
            moved = offsets / sizes
        else:
            shares = offsets.new_tensor([1 / count for count in counts for _ in range(count)])[:, None]
            scale = float(getattr(module, "offset_scale", 0.5))
            moved = offsets * shares * beside[:, :, None, :, 2:] * scale
        points = beside[:, :, None, :, :2] + moved  # (B, n, heads, all points, 2)
        return Sampled(by_level(points, counts), by_level(weights, counts), references[:, :, 0], shapes[0])


def points_of(module: Any, levels: int) -> list[int]:
    """How many points a head samples on each level."""
    count = module.n_points
    return list(count) if isinstance(count, list | tuple) else [int(count)] * levels


def by_level(values: Tensor, counts: Sequence[int]) -> Tensor:
    """What stands in one row, level by level (B, n, heads, all points, ...), on an axis of levels.

    Levels of fewer points are filled up with zeros, which weigh nothing.
    """
    most = max(counts)
    rows: Sequence[Tensor] = torch.split(values, list(counts), 3)
    filled = [torch.cat([row, row.new_zeros(*row.shape[:3], most - row.shape[3], *row.shape[4:])], 3) for row in rows]
    return torch.stack(filled, 3)


@contextmanager
def giving_weights(module: nn.Module) -> Iterator[None]:
    """Attention computed by the code that also gives its weights; the fused kernels do not."""
    if "output_attentions" in inspect.signature(module.forward).parameters:  # it has to be asked
        handle = module.register_forward_pre_hook(
            lambda _m, args, kwargs: (args, {**kwargs, "output_attentions": True}), with_kwargs=True
        )
        try:
            yield
        finally:
            handle.remove()
        return
    config: Any = getattr(module, "config", None)
    if config is None:  # it samples points, and always gives their weights
        yield
        return
    before = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = before


def arguments(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call, by name."""
    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    named = dict(bound.arguments)
    return named | named.pop("kwargs", {})


class AdaptedRecord(ForwardRecord):
    """The calls of all attention modules."""

    def __init__(self, inspected: "TransformersInspectable") -> None:
        self._inspected = inspected
        self.calls: dict[nn.Module, Call] = {}
        self.map: tuple[int, int] | None = None  # that dense attention looks at, if any does

    @property
    def encoder_cells(self) -> tuple[int, int]:
        """Another map than the decoder's in RT-DETR and its kin, whose encoder attends on the coarsest alone."""
        return self.cells if self.map is None or self._inspected.encoder_kind == "sampled" else self.map

    @torch.inference_mode()
    def cross(self, layer: int, queries: Sequence[int]) -> Attention:
        call = self.calls[self._inspected.cross[layer]]
        if self._inspected.kind == "sampled":
            return _part(call.sampled(), queries)
        _, weights = call.again()  # (B, heads, Q, S)
        if (row := self._inspected.row) is not None:
            weights = _part_of(weights, row.queries, row.cells)
        return _maps(weights[:, :, list(queries)], self.cells)

    @torch.inference_mode()
    def encoder(self, layer: int, cells: Sequence[int]) -> Attention:
        call = self.calls[self._inspected.among_cells[layer]]
        if self._inspected.encoder_kind == "sampled":
            return _part(call.sampled(), cells)
        _, weights = call.again()
        if (row := self._inspected.row) is not None:
            weights = _part_of(weights, row.cells, row.cells)
        return _maps(weights[:, :, list(cells)], self.encoder_cells)

    @torch.inference_mode()
    def among_queries(self, layer: int) -> Tensor:
        _, weights = self.calls[self._inspected.among_queries[layer]].again()
        if (row := self._inspected.row) is not None:
            weights = _part_of(weights, row.queries, row.queries)
        return weights

    def queries_are_alike(self, layer: int) -> bool:
        given = self.calls[self._inspected.among_queries[layer]].given
        values: Tensor = next(given[name] for name in VALUES if name in given)
        return self._inspected.row is None and bool((values == values[:, :1]).all())


# What is gathered, by the names that modules have for it.
VALUES = ("value_states", "values", "hidden_states")


@dataclass(frozen=True)
class TokenRow:
    """Where cells and queries stand among the tokens of an encoder that no decoder follows; the first is neither."""

    cells: slice
    queries: slice


def _part_of(weights: Tensor, askers: slice, asked: slice) -> Tensor:
    """Weights (B, heads, S, S) from some tokens to some: what goes to those counts, and is shared out anew."""
    part = weights[:, :, askers, asked]
    return part / part.sum(-1, keepdim=True)


def _part(found: Sampled, askers: Sequence[int]) -> Sampled:
    chosen = list(askers)
    return Sampled(found.points[:, chosen], found.weights[:, chosen].float(), found.references[:, chosen], found.cells)


def _maps(weights: Tensor, cells: tuple[int, int]) -> Dense:
    B, heads, n, _ = weights.shape
    return Dense(weights.transpose(1, 2).reshape(B, n, heads, *cells))


class TransformersInspectable(Inspectable):
    """How to look into the attention of any of the families."""

    def __init__(self, model: TransformersNetwork, where: Attentions, row: TokenRow | None) -> None:
        self.model, self.row = model, row
        self.kind, self.encoder_kind = where.kind, where.encoder_kind
        self.cross = model.modules_of(where.cross)
        if row is not None:
            self.looks_by = "encoder self-attention"
            if row.cells == row.queries:  # heads that read the last layer's tokens, and were taught no others
                self.cross, self.looks_by = self.cross[-1:], "self-attention in the encoder's last layer"
        self.among_queries = model.modules_of(where.among_queries)
        self.among_cells = model.modules_of(where.encoder)
        self.encoder_layers, self.decoder_layers = len(self.among_cells), len(self.cross)
        self.heads = _heads(self.cross[0])
        abilities: set[Ability] = {"cross-attention"}
        if self.among_queries:
            abilities.add("query attention")
        if self.among_cells:
            abilities.add("encoder attention")
        if self.kind == "dense" and row is None:
            abilities.add("relevance")
        self.abilities = frozenset(abilities)
        # Its output has the rows and columns of the map that dense attention is of.
        self._projection = next(iter(model.modules_of(where.projection)), None)

    @property
    def attentions(self) -> list[nn.Module]:
        """All of them."""
        return list(dict.fromkeys([*self.among_cells, *self.among_queries, *self.cross]))

    @contextmanager
    def recorded(self) -> Iterator[AdaptedRecord]:
        record = AdaptedRecord(self)

        def asked(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = arguments(module, args, kwargs)
            record.calls[module] = Call(module, given)
            if "spatial_shapes_list" in given:
                h, w = given["spatial_shapes_list"][0]  # the finest level
                record.cells = int(h), int(w)

        def answered(_module: nn.Module, _inputs: Any, output: Output) -> None:
            record.output = output

        def mapped(_module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            record.map = self._rows_and_columns(inputs, output)
            if self.kind == "dense":
                record.cells = record.map

        handles = [
            self.model.register_forward_hook(answered),
            *(module.register_forward_pre_hook(asked, with_kwargs=True) for module in self.attentions),
        ]
        if self._projection is not None:
            handles.append(self._projection.register_forward_hook(mapped))
        try:
            yield record
        finally:
            for handle in handles:
                handle.remove()

    def _rows_and_columns(self, inputs: tuple[Any, ...], output: Tensor) -> tuple[int, int]:
        if output.dim() == 4:
            return int(output.shape[2]), int(output.shape[3])
        patch: Any = self.model.network.config.patch_size  # patches in a row: (B, S, C)
        height, width = patch if isinstance(patch, list | tuple) else (patch, patch)
        return int(inputs[0].shape[2] // height), int(inputs[0].shape[3] // width)

    @contextmanager
    def with_gradient(self) -> Iterator[Callable[[], GradientRecord]]:
        """Each module gathers by the weights that it gives. The graph begins behind the backbone."""
        self.require("relevance")
        seen: dict[nn.Module, Tensor] = {}  # weights (B, heads, A, S)
        cells: list[tuple[int, int]] = []

        def begin(_module: nn.Module, _args: Any, features: Tensor) -> Tensor:
            cells[:] = [(int(features.shape[2]), int(features.shape[3]))]
            return features.detach()

        def gathered(module: nn.Module, _args: Any, output: Any) -> None:
            seen[module] = output[1]

        assert self._projection is not None
        handles = [self._projection.register_forward_hook(begin)]
        with ExitStack() as stack:
            for module in self.attentions:
                stack.enter_context(giving_weights(module))
                handles.append(module.register_forward_hook(gathered))
            try:
                yield lambda: GradientRecord(
                    cells[0],
                    [seen[module] for module in self.among_cells],
                    [(seen[a], seen[b]) for a, b in zip(self.among_queries, self.cross, strict=True)],
                )
            finally:
                for handle in handles:
                    handle.remove()


class AdaptedInspectable(TransformersInspectable):
    """How to look into those that have classes of their own."""

    model: AdaptedNetwork

    def __init__(self, model: AdaptedNetwork) -> None:
        where = model.family.attentions
        behind = where.queries == "behind the cells"
        super().__init__(
            model, where, TokenRow(slice(1, -model.queries), slice(-model.queries, None)) if behind else None
        )

    def stages(self) -> Sequence[Stage]:
        return stages_of(self.model, self.decoder_layers, in_one_row=self.row is not None)


class OpenVocabularyInspectable(TransformersInspectable):
    """How to look into those that look for phrases."""

    def __init__(self, model: OpenVocabularyNetwork) -> None:
        where = model.family.attentions
        same = where.queries == "the cells"
        super().__init__(model, where, TokenRow(slice(1, None), slice(1, None)) if same else None)

    def stages(self) -> Sequence[Stage]:
        raise UsageError("`detr explain` takes models with classes of their own, and none that look for phrases.")


def _heads(module: Any) -> int:
    for name in ("n_heads", "num_heads", "num_attention_heads", "attention_heads"):
        if hasattr(module, name):
            return int(getattr(module, name))
    return int(module.q_proj.out_features // module.head_dim)
