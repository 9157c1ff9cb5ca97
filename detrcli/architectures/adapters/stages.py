"""The way of a picture through a network of transformers, in steps that a reader can follow."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from detrcli.architectures.adapters.network import AdaptedNetwork
from detrcli.model.inspectable import Stage


def stages_of(model: AdaptedNetwork, layers: int, *, in_one_row: bool) -> Sequence[Stage]:
    """In the order of the work; whether queries stand in one row with the cells, in an encoder alone."""
    family = model.family

    def last(pattern: str) -> nn.Module:
        found = model.modules_of(pattern)  # behind the decoder layers' heads stands that of the proposals
        return found[min(len(found), layers) - 1]

    stages = [
        Stage(
            "backbone",
            model.backbone,
            None,
            lambda *_: "sums up the picture; the shape is that of the last map that it gives",
            pick=_last_tensor,
        )
    ]
    if family.encoder:
        stages.append(
            Stage(
                "encoder",
                last(family.encoder),
                None,
                lambda *_: "lets what was seen in one place tell of others, over all levels",
                pick=_last_tensor,
            )
        )
    if family.proposals and model.modules_of(family.proposals):
        stages.append(
            Stage(
                "tokens",
                last(family.proposals),
                2,
                lambda own, _: f"each of the {own[0]:,} proposes a box; the most promising become queries",
            )
        )
    if in_one_row:
        told = (
            f"{model.queries} object queries stand beside the patches of the picture in one row; in {layers} layers "
            "all gather from all"
        )
    else:
        points = "looks at some sampled points" if family.attentions.kind == "sampled" else "weighs all cells"
        told = (
            f"{model.queries} object queries: in {layers} layers they gather from each other, then from the "
            f"picture, where each {points}"
        )
    numbers = "probabilities together" if family.scoring == "softmax" else "probabilities one by one"
    return [
        *stages,
        Stage("decoder", last(family.decoder), 2, lambda *_: told, pick=_last_tensor),
        Stage(
            "class head",
            last(family.class_head),
            2,
            lambda own, _: f"per query {own[1]} numbers, which become {numbers}",
        ),
        Stage(
            "box head",
            last(family.box_head),
            2,
            lambda own, _: (
                "per query how its box moves: centre x, centre y, width and height"
                if own[1] == 4
                else f"per query and side of its box {own[1] // 4} numbers: how likely the edge lies so far off"
            ),
        ),
    ]


def _last_tensor(found: Any) -> Tensor:
    """The last map or row of tokens in what a module gives, however it is packed."""
    if isinstance(found, Tensor):
        return found
    if hasattr(found, "last_hidden_state"):
        return _last_tensor(found.last_hidden_state)
    if isinstance(found, Mapping):
        return _last_tensor(list(found.values()))
    # Maps stand beside their padding, which has no channels.
    flat = [_last_tensor(one) for one in found if one is not None and not isinstance(one, str)]
    return [one for one in flat if one.is_floating_point()][-1]
