"""Weights made to fit other classes, or another number of queries."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from detrcli.structures import Classes
from detrcli.system.text import key
from detrcli.variants import kind_of
from detrcli.weights.coco import UNUSED
from detrcli.weights.weights import Weights


@dataclass(frozen=True)
class Fitted:
    """The weights that fit, and what became of the ones they were made from."""

    weights: Weights
    kept: list[str]  # classes that are known already, by name
    fresh: list[str]  # classes that start anew
    dropped: list[str]  # classes that went
    queries: str  # what became of the object queries, in words


@torch.no_grad()
def fit(weights: Weights, classes: Classes, queries: int | None = None) -> Fitted:
    """Keep what is known by name and start the rest as a new model would, from torch's random state.

    Names are compared without regard to case and surrounding space. The row of "no object" always stays.
    """
    tensors = dict(weights.tensors)
    known = {key(name): row for row, name in enumerate(weights.classes.names) if name != UNUSED}
    rows = {index: known[key(name)] for index, name in enumerate(classes.names) if key(name) in known}

    head = nn.Linear(tensors["class_head.weight"].shape[1], len(classes) + 1)
    for part, new in (("weight", head.weight), ("bias", head.bias)):
        old = tensors[f"class_head.{part}"]
        new[-1] = old[-1]
        for index, row in rows.items():
            new[index] = old[row]
        tensors[f"class_head.{part}"] = new.detach()

    before, wanted = weights.config.queries, queries or weights.config.queries
    config = replace(weights.config, classes=len(classes), queries=wanted)
    for name, start in kind_of(config).per_query.items():
        common = min(before, wanted)
        tensors[name] = torch.cat([tensors[name][:common], start(config)[common:]])

    kept = [str(classes.names[index]) for index in rows]
    found = set(map(key, kept))
    return Fitted(
        weights=replace(weights, config=config, tensors=tensors, classes=classes),
        kept=kept,
        fresh=[str(name) for index, name in enumerate(classes.names) if index not in rows],
        dropped=[str(name) for name in weights.classes.names if name != UNUSED and key(name) not in found],
        queries=_what_became_of_queries(before, wanted),
    )


def _what_became_of_queries(old: int, wanted: int) -> str:
    if wanted < old:
        return f"the first {wanted} of {old} queries kept"
    return f"all {old} queries kept" + (f", {wanted - old} new ones added" if wanted > old else "")
