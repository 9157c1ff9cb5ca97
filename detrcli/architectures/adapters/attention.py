"""Attention and stages of transformers' networks, recorded by hooks on their modules.

A record keeps the inputs of each attention module. When its attention is requested, the module is called again.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from detrcli.architectures.adapters.network import AdaptedNetwork, OpenVocabularyNetwork
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

# Possible names of the argument from which an attention module computes its values.
VALUES = ("value_states", "values", "hidden_states")


@dataclass(frozen=True)
class Call:
    """A call of an attention module during the recorded forward pass."""

    module: nn.Module
    inputs: Mapping[str, Any]  # arguments by name

    def repeat(self) -> tuple[Tensor, Tensor]:
        """Call the module again. Return its output and the attention weights."""
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
        n_points = module.n_points  # of each head: a list by level, or one number for all levels
        counts = list(n_points) if isinstance(n_points, list | tuple) else [int(n_points)] * len(shapes)
        B, n = weights.shape[:2]
        weights = weights.reshape(B, n, module.n_heads, sum(counts))
        offsets = captured["offsets"].view(B, n, module.n_heads, sum(counts), 2)
        levels = [level for level, count in enumerate(counts) for _ in range(count)]
        references = self.inputs["reference_points"]  # (B, n, levels or 1, 2 or 4)
        if references.dim() == 3:
            references = references[:, :, None]
        at_level = references.expand(B, n, len(shapes), references.shape[-1])[:, :, levels]  # (B, n, points, 2 or 4)
        # As in the module: offsets are in cells of the level, or in fractions of the reference box.
        if references.shape[-1] == 2:
            offsets = offsets / offsets.new_tensor([(w, h) for h, w in shapes])[levels]  # (points, 2)
        else:
            shares = offsets.new_tensor([1 / count for count in counts for _ in range(count)])[:, None]
            scale = float(getattr(module, "offset_scale", 0.5))
            offsets = offsets * shares * at_level[:, :, None, :, 2:] * scale
        points = at_level[:, :, None, :, :2] + offsets  # (B, n, heads, points, 2), of all levels
        return Sampled(by_level(points, counts), by_level(weights, counts), references[:, :, 0], shapes[0])


def by_level(values: Tensor, counts: Sequence[int]) -> Tensor:
    """Split (B, n, heads, all points, ...) into levels: (B, n, heads, levels, points, ...).

    Levels with fewer points are padded with zeros.
    """
    rows = [row.movedim(3, 0) for row in torch.split(values, list(counts), 3)]  # each (points, B, n, heads, ...)
    return pad_sequence(rows, batch_first=True).movedim((0, 1), (3, 4))


@contextmanager
def returning_weights(module: nn.Module) -> Iterator[None]:
    """Make an attention module return its weights, without the fused kernels that do not compute them."""
    config: Any = getattr(module, "config", None)
    if "output_attentions" in inspect.signature(module.forward).parameters:  # it returns weights on request
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
        call, tokens = self.calls[self._inspected.cross[layer]], self._inspected.query_tokens
        return self._attention(call, self._inspected.kind, tokens, queries, self.cells)

    @torch.inference_mode()
    def encoder(self, layer: int, cells: Sequence[int]) -> Attention:
        call, tokens = self.calls[self._inspected.among_cells[layer]], self._inspected.cell_tokens
        return self._attention(call, self._inspected.encoder_kind, tokens, cells, self.encoder_cells)

    @torch.inference_mode()
    def among_queries(self, layer: int) -> Tensor:
        tokens = self._inspected.query_tokens
        return _weights(self.calls[self._inspected.among_queries[layer]], tokens, tokens)

    def queries_are_alike(self, layer: int) -> bool:
        inputs = self.calls[self._inspected.among_queries[layer]].inputs
        values: Tensor = next(inputs[name] for name in VALUES if name in inputs)
        return self._inspected.query_tokens is None and bool((values == values[:, :1]).all())

    def _attention(
        self, call: Call, kind: str, sources: slice | None, requested: Sequence[int], cells: tuple[int, int]
    ) -> Attention:
        chosen = list(requested)
        if kind == "sampled":
            s = call.sampled()
            return Sampled(s.points[:, chosen], s.weights[:, chosen].float(), s.references[:, chosen], s.cells)
        weights = _weights(call, sources, self._inspected.cell_tokens)[:, :, chosen]  # (B, heads, n, S)
        return Dense(weights.transpose(1, 2).reshape(len(weights), len(chosen), weights.shape[1], *cells))


def _weights(call: Call, sources: slice | None, targets: slice | None) -> Tensor:
    """Return attention weights (B, heads, A, S), renormalized if only some of the tokens are selected."""
    _, weights = call.repeat()
    if sources is None or targets is None:
        return weights
    part = weights[:, :, sources, targets]
    return part / part.sum(-1, keepdim=True)


class TransformersInspectable(Inspectable):
    """Access to the attention and the stages of a detector of any family."""

    def __init__(self, model: AdaptedNetwork | OpenVocabularyNetwork) -> None:
        modules = model.family.attentions
        self.model = model
        self.kind, self.encoder_kind = modules.kind, modules.encoder_kind
        self.cross = model.modules_of(modules.cross)
        # Where cells and queries are in the token sequence of a model without a decoder. The first token is neither.
        self.cell_tokens: slice | None = None
        self.query_tokens: slice | None = None
        if modules.queries == "after cells":
            assert isinstance(model, AdaptedNetwork)
            self.cell_tokens, self.query_tokens = slice(1, -model.queries), slice(-model.queries, None)
            self.attention_name = "encoder self-attention"
        elif modules.queries == "cells":
            self.cell_tokens = self.query_tokens = slice(1, None)
            # Only the last layer: the heads were not trained on the tokens of other layers.
            self.cross, self.attention_name = self.cross[-1:], "self-attention in the encoder's last layer"
        self.among_queries = model.modules_of(modules.among_queries)
        self.among_cells = model.modules_of(modules.encoder)
        self.attentions = list(dict.fromkeys([*self.among_cells, *self.among_queries, *self.cross]))
        self.encoder_layers, self.decoder_layers = len(self.among_cells), len(self.cross)
        self.heads = _heads(self.cross[0])
        abilities: dict[Ability, bool] = {
            "cross-attention": True,
            "query attention": bool(self.among_queries),
            "encoder attention": bool(self.among_cells),
            "relevance": self.kind == "dense" and self.query_tokens is None,
        }
        self.abilities = frozenset(ability for ability, present in abilities.items() if present)
        self._projection = next(iter(model.modules_of(modules.projection)), None)

    def stages(self) -> Sequence[Stage]:
        model, layers = self.model, self.decoder_layers
        if isinstance(model, OpenVocabularyNetwork):
            raise UsageError("`detr explain` does not take models whose classes are phrases.")
        family = model.family

        def last(pattern: str) -> nn.Module:
            modules = model.modules_of(pattern)  # of the decoder layers, and perhaps one for proposals after them
            return modules[min(len(modules), layers) - 1]

        stages = [Stage("backbone", model.backbone, pick=last_tensor)]
        if family.encoder:
            stages.append(Stage("encoder", last(family.encoder), pick=last_tensor))
        if family.proposals and model.modules_of(family.proposals):
            stages.append(Stage("tokens", last(family.proposals), 2))
        attention = self.kind if self.query_tokens is None else "joint"
        facts = {"layers": layers, "attention": attention, "count": model.queries}
        return [
            *stages,
            Stage("decoder", last(family.decoder), 2, facts, pick=last_tensor),
            Stage("class head", last(family.class_head), 2),
            Stage("box head", last(family.box_head), 2, {"refines": family.scoring != "softmax"}),
        ]

    @contextmanager
    def recorded(self) -> Iterator[TransformersRecord]:
        record = TransformersRecord(self)

        def record_call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            inputs = dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)
            inputs |= inputs.pop("kwargs", {})
            record.calls[module] = Call(module, inputs)
            if "spatial_shapes_list" in inputs:
                h, w = inputs["spatial_shapes_list"][0]  # the finest level
                record.cells = int(h), int(w)

        def record_output(_module: nn.Module, _inputs: Any, output: Output) -> None:
            record.output = output

        def record_map(_module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            if output.dim() == 4:
                h, w = output.shape[2:]
            else:  # patches as a token sequence (B, S, C)
                patch: Any = self.model.network.config.patch_size
                height, width = patch if isinstance(patch, list | tuple) else (patch, patch)
                h, w = inputs[0].shape[2] // height, inputs[0].shape[3] // width
            record.map = int(h), int(w)
            if self.kind == "dense":
                record.cells = record.map

        with ExitStack() as hooks:
            hooks.enter_context(self.model.register_forward_hook(record_output))
            for module in self.attentions:
                hooks.enter_context(module.register_forward_pre_hook(record_call, with_kwargs=True))
            if self._projection is not None:
                hooks.enter_context(self._projection.register_forward_hook(record_map))
            yield record

    @contextmanager
    def with_gradient(self) -> Iterator[Callable[[], GradientRecord]]:
        """Record attention weights as parts of the autograd graph, which starts after the backbone."""
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


def last_tensor(output: Any) -> Tensor:
    """Return the last feature map or token sequence of a module's output, which may be nested."""
    if isinstance(output, Tensor):
        return output
    if hasattr(output, "last_hidden_state"):
        return last_tensor(output.last_hidden_state)
    values = output.values() if isinstance(output, Mapping) else output
    # Feature maps come with padding masks, which are not floating point.
    tensors = [last_tensor(value) for value in values if value is not None and not isinstance(value, str)]
    return [tensor for tensor in tensors if tensor.is_floating_point()][-1]
