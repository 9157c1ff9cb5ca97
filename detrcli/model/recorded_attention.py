"""Attention of our models, recorded by hooks on their attention modules."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrcli.model.deformable_detr import DeformableDETR
from detrcli.model.deformable_transformer import DeformableAttention
from detrcli.model.detr import DETR
from detrcli.model.dino import DINO
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
from detrcli.model.refinement import IterativeRefinementDETR
from detrcli.structures import Output


class CallRecord(ForwardRecord):
    """A forward pass with the inputs of all attention modules, which are called again on request."""

    def __init__(self, inspected: "AttentionInspectable") -> None:
        self.inspected = inspected
        self.calls: dict[nn.Module, tuple[tuple[Any, ...], Mapping[str, Any]]] = {}  # args and kwargs

    def cross(self, layer: int, queries: Sequence[int]) -> Attention:
        return self.inspected.attention(self, self.inspected.cross[layer], list(queries))

    def encoder(self, layer: int, cells: Sequence[int]) -> Attention:
        return self.inspected.attention(self, self.inspected.among_cells[layer], list(cells))

    @torch.inference_mode()
    def among_queries(self, layer: int) -> Tensor:
        attention = self.inspected.among_queries[layer]
        _, weights = attention(*self.calls[attention][0], need_weights=True, average_attn_weights=False)
        return weights

    def queries_are_alike(self, layer: int) -> bool:
        """Return True in the first layer of DETR, where the contents of all queries are zero."""
        (_, _, values), _ = self.calls[self.inspected.among_queries[layer]]  # (B, Q, C)
        return bool((values == values[:, :1]).all())


class AttentionInspectable(Inspectable):
    """Base class for models of encoder and decoder layers with the attention modules of this package."""

    def __init__(self, model: nn.Module, encoder: Iterable[Any], decoder: Iterable[Any]) -> None:
        self.model: Any = model
        self.among_cells = [layer.self_attention for layer in encoder]
        self.among_queries = [layer.self_attention for layer in decoder]
        self.cross = [layer.cross_attention for layer in decoder]
        self.attentions = [*self.among_cells, *self.among_queries, *self.cross]
        self.encoder_layers, self.decoder_layers = len(self.among_cells), len(self.cross)

    @abstractmethod
    def cells(self, record: CallRecord) -> tuple[int, int]:
        """Return rows and columns of the map on which the record's attention is shown."""

    @abstractmethod
    def attention(self, record: CallRecord, module: Any, indices: list[int]) -> Attention:
        """Compute the attention of some attending tokens in a recorded call of a module."""

    @contextmanager
    def recorded(self) -> Iterator[CallRecord]:
        record = CallRecord(self)

        def on_call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            record.calls[module] = args, kwargs

        def on_output(_module: nn.Module, _inputs: Any, output: Output) -> None:
            record.output = output
            record.cells = self.cells(record)

        with ExitStack() as hooks:
            hooks.enter_context(self.model.register_forward_hook(on_output))
            for module in self.attentions:
                hooks.enter_context(module.register_forward_pre_hook(on_call, with_kwargs=True))
            yield record


class DenseInspectable(AttentionInspectable):
    """Access to the inside of DETR, with or without iterative refinement."""

    abilities = frozenset({"cross-attention", "encoder attention", "query attention", "relevance"})

    def __init__(self, model: DETR | IterativeRefinementDETR) -> None:
        super().__init__(model, model.encoder.layers, model.decoder.layers)
        self.heads = self.cross[0].num_heads

    def cells(self, record: CallRecord) -> tuple[int, int]:
        h, w = record.output.named["features"].shape[-2:]
        return h, w

    @torch.inference_mode()
    def attention(self, record: CallRecord, module: nn.MultiheadAttention, indices: list[int]) -> Dense:
        (queries, keys, values), kwargs = record.calls[module]
        options = {**kwargs, "need_weights": True, "average_attn_weights": False}
        _, weights = module(queries[:, indices], keys, values, **options)  # (B, heads, n, S)
        return Dense(weights.transpose(1, 2).unflatten(-1, record.cells))

    @contextmanager
    def with_gradient(self) -> Iterator[Callable[[], GradientRecord]]:
        """Each module gathers its values by the weights that it returns; the result is the same.

        The autograd graph begins after the backbone.
        """
        record: dict[nn.MultiheadAttention, Tensor] = {}  # weights (B, heads, A, S)
        cells: list[tuple[int, int]] = []

        def detach(_module: nn.Module, _args: Any, features: Tensor) -> Tensor:
            cells[:] = [(features.shape[-2], features.shape[-1])]
            return features.detach()

        def request_weights(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return args, {**kwargs, "need_weights": True, "average_attn_weights": False}

        def gather(module: nn.MultiheadAttention, args: tuple[Tensor, ...], output: Any) -> Any:
            weights: Tensor = output[1]
            if not weights.requires_grad:
                weights.requires_grad_()
            record[module] = weights
            projection, bias = module.in_proj_weight.chunk(3)[2], module.in_proj_bias.chunk(3)[2]
            B, S, _ = args[2].shape
            values = F.linear(args[2], projection, bias).view(B, S, module.num_heads, -1).transpose(1, 2)
            return module.out_proj((weights @ values).transpose(1, 2).flatten(2)), weights

        with ExitStack() as hooks:
            hooks.enter_context(self.model.projection.register_forward_hook(detach))
            for module in self.attentions:
                hooks.enter_context(module.register_forward_pre_hook(request_weights, with_kwargs=True))
                hooks.enter_context(module.register_forward_hook(gather))
            yield lambda: GradientRecord(
                cells[0],
                [record[module] for module in self.among_cells],
                [(record[a], record[b]) for a, b in zip(self.among_queries, self.cross, strict=True)],
            )

    def stages(self) -> Sequence[Stage]:
        model = self.model
        decoder = {"layers": self.decoder_layers, "attention": "dense", "queries": "learned"}
        refines = isinstance(model, IterativeRefinementDETR)
        return [
            Stage("backbone", model.backbone, 3, pick=lambda maps: maps[-1]),
            Stage("projection", model.projection, 3),
            Stage("position", model.position, 3),
            Stage("encoder", model.encoder, 2, {"layers": self.encoder_layers, "attention": "dense"}),
            Stage("decoder", model.decoder.layers[-1], 2, decoder),
            Stage("class head", model.class_head, 2),
            Stage("box head", model.box_head.layers[-1], 2, {"refines": refines}),
        ]


class SampledInspectable(AttentionInspectable):
    """Access to the inside of Deformable DETR and DINO. Cells are those of the finest level."""

    def __init__(self, model: DeformableDETR | DINO) -> None:
        super().__init__(model, model.encoder.layers, model.decoder)
        self.deformable: list[DeformableAttention] = [*self.cross, *self.among_cells]
        self.heads = self.deformable[0].heads if self.deformable else 0
        of_encoder: frozenset[Ability] = frozenset({"encoder attention"} if self.among_cells else ())
        of_decoder: frozenset[Ability] = frozenset({"cross-attention", "query attention"} if self.cross else ())
        self.abilities = of_encoder | of_decoder
        queries = model.selection if isinstance(model, DINO) else model.queries
        self.proposer = getattr(queries, "proposer", None)

    def cells(self, record: CallRecord) -> tuple[int, int]:
        if not self.deformable:
            return record.cells
        (_, _, _, pyramid), _ = record.calls[self.deformable[0]]
        return pyramid.shapes[0]

    @torch.inference_mode()
    def attention(self, record: CallRecord, module: DeformableAttention, indices: list[int]) -> Sampled:
        (queries, references, _, pyramid), _ = record.calls[module]
        references = references[:, indices]  # (B, n, levels, 2 or 4)
        points, weights = module.sampling(queries[:, indices], references, pyramid)
        return Sampled(points, weights.float(), references[:, :, 0], record.cells)

    def stages(self) -> Sequence[Stage]:
        model, proposer = self.model, self.proposer
        levels = {"levels": len(model.pyramid.projections)}
        sampling = {"attention": "sampled", "points": self.deformable[0].points if self.deformable else 0}
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
