"""The stages of a network of transformers."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from detrcli.architectures.adapters.network import AdaptedNetwork
from detrcli.model.inspectable import Stage


def stages_of(model: AdaptedNetwork, layers: int, *, in_one_row: bool) -> Sequence[Stage]:
    """Return the stages in the order of computation.

    With `in_one_row` queries and image patches are a single sequence, in an encoder without a decoder.
    """
    family = model.family

    def last(pattern: str) -> nn.Module:
        modules = model.modules_of(pattern)  # after the decoder layers' heads there may be a head of the proposals
        return modules[min(len(modules), layers) - 1]

    stages = [Stage("backbone", model.backbone, pick=_last_tensor)]
    if family.encoder:
        stages.append(Stage("encoder", last(family.encoder), pick=_last_tensor))
    if family.proposals and model.modules_of(family.proposals):
        stages.append(Stage("tokens", last(family.proposals), 2))
    attention = "joint" if in_one_row else family.attentions.kind
    facts = {"layers": layers, "attention": attention, "count": model.queries}
    return [
        *stages,
        Stage("decoder", last(family.decoder), 2, facts, pick=_last_tensor),
        Stage("class head", last(family.class_head), 2),
        Stage("box head", last(family.box_head), 2, {"refines": family.scoring != "softmax"}),
    ]


def _last_tensor(output: Any) -> Tensor:
    """Return the last feature map or token sequence of a module's output, which may be nested."""
    if isinstance(output, Tensor):
        return output
    if hasattr(output, "last_hidden_state"):
        return _last_tensor(output.last_hidden_state)
    values = output.values() if isinstance(output, Mapping) else output
    # Feature maps come with padding masks, which are not floating point.
    tensors = [_last_tensor(value) for value in values if value is not None and not isinstance(value, str)]
    return [tensor for tensor in tensors if tensor.is_floating_point()][-1]
