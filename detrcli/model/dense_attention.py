"""Attention of DETR and of DETR with iterative refinement, recorded by hooks on their attention modules."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrcli.model.detr import DETR
from detrcli.model.inspectable import AttentionInspectable, CallRecord, Dense, GradientRecord, Stage
from detrcli.model.refinement import IterativeRefinementDETR


class DenseRecord(CallRecord):
    """A forward pass whose attention is dense."""

    def cross(self, layer: int, queries: Sequence[int]) -> Dense:
        return self._weights(self.inspected.cross[layer], queries)

    def encoder(self, layer: int, cells: Sequence[int]) -> Dense:
        return self._weights(self.inspected.among_cells[layer], cells)

    @torch.inference_mode()
    def _weights(self, attention: nn.MultiheadAttention, indices: Sequence[int]) -> Dense:
        """Compute the weights of some attending tokens by calling the module again."""
        (queries, keys, values), kwargs = self.calls[attention]
        options = {**kwargs, "need_weights": True, "average_attn_weights": False}
        _, weights = attention(queries[:, list(indices)], keys, values, **options)  # (B, heads, n, S)
        return Dense(weights.transpose(1, 2).unflatten(-1, self.cells))


class DenseInspectable(AttentionInspectable):
    """Access to the inside of DETR, with or without iterative refinement."""

    abilities = frozenset({"cross-attention", "encoder attention", "query attention", "relevance"})
    record = DenseRecord

    def __init__(self, model: DETR | IterativeRefinementDETR) -> None:
        super().__init__(model, model.encoder.layers, model.decoder.layers)
        self.heads = self.cross[0].num_heads

    def cells(self, record: CallRecord) -> tuple[int, int]:
        h, w = record.output.named["features"].shape[-2:]
        return h, w

    @contextmanager
    def with_gradient(self) -> Iterator[Callable[[], GradientRecord]]:
        """Each module gathers its values by the weights that it returns; the result is the same.

        The autograd graph begins after the backbone.
        """
        record: dict[nn.MultiheadAttention, Tensor] = {}  # weights (B, heads, A, S)
        cells: list[tuple[int, int]] = []

        def request_weights(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return args, {**kwargs, "need_weights": True, "average_attn_weights": False}

        def detach(_module: nn.Module, _args: Any, features: Tensor) -> Tensor:
            cells[:] = [(features.shape[-2], features.shape[-1])]
            return features.detach()

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
