"""Where a model looks: what its attention modules were asked in a forward pass, and what they answer to it again."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.structures import Output, Prediction


@dataclass(frozen=True)
class Call:
    """What an attention module was asked: A askers, S tokens that are looked at."""

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


class Recording:
    """A forward pass, for whoever wants to look into it. Attention is computed only for what is asked."""

    def __init__(self, model: DetectionTransformer) -> None:
        self.model = model
        self.output: Output
        self.cells: tuple[int, int]  # rows and columns of the feature map
        self.calls: dict[str, Call] = {}  # by the module's name

    @property
    def predictions(self) -> tuple[Prediction, ...]:
        """What every decoder layer predicts, the first one first."""
        return tuple(group.prediction for group in self.output.groups)

    @property
    def heads(self) -> int:
        """How many heads every attention has."""
        return next(iter(self.calls.values())).attention.num_heads

    @torch.inference_mode()
    def cross(self, layer: int, queries: Sequence[int]) -> Tensor:
        """Where queries look in the picture, (B, n, heads, h, w), each map summing to 1."""
        return self._as_maps(self.calls[f"decoder.layers.{layer}.cross_attention"].weights(queries))

    @torch.inference_mode()
    def encoder(self, layer: int, cells: Sequence[int]) -> Tensor:
        """Where cells look in the picture, (B, n, heads, h, w); cells are counted row by row."""
        return self._as_maps(self.calls[f"encoder.layers.{layer}.self_attention"].weights(cells))

    @torch.inference_mode()
    def among_queries(self, layer: int) -> Tensor:
        """Which queries look at which, (B, heads, Q, Q), the looking one first."""
        call = self.calls[f"decoder.layers.{layer}.self_attention"]
        return call.weights(range(call.queries.shape[1]))

    def queries_are_alike(self, layer: int) -> bool:
        """Whether all queries have the same to give in a decoder layer, so that it does not matter who looks at whom.

        So it is in the first layer of the published DETR, where contents start at zero.
        """
        values = self.calls[f"decoder.layers.{layer}.self_attention"].values  # (B, Q, C)
        return bool((values == values[:, :1]).all())

    def _as_maps(self, weights: Tensor) -> Tensor:
        B, heads, n, _ = weights.shape
        return weights.transpose(1, 2).reshape(B, n, heads, *self.cells)


@contextmanager
def recorded(model: DetectionTransformer) -> Iterator[Recording]:
    """Records the forward passes in its block, of which the last one stays; nothing of them is changed."""
    recording = Recording(model)

    def listen(name: str, module: nn.MultiheadAttention) -> Any:
        def asked(_module: nn.Module, args: tuple[Tensor, Tensor, Tensor], kwargs: dict[str, Any]) -> None:
            recording.calls[name] = Call(module, *args, padding=kwargs["key_padding_mask"])

        return module.register_forward_pre_hook(asked, with_kwargs=True)

    def projected(_module: nn.Module, _inputs: Any, features: Tensor) -> None:
        height, width = features.shape[-2:]
        recording.cells = height, width

    def answered(_module: nn.Module, _inputs: Any, output: Output) -> None:
        recording.output = output

    handles = [
        model.get_submodule("projection").register_forward_hook(projected),
        model.register_forward_hook(answered),
        *(
            listen(name, module)
            for name, module in model.named_modules()
            if isinstance(module, nn.MultiheadAttention)
        ),
    ]
    try:
        yield recording
    finally:
        for handle in handles:
            handle.remove()
