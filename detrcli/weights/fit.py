"""Weights made to fit other classes, or another number of queries."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from detrcli.errors import UsageError
from detrcli.structures import Classes
from detrcli.system.text import key
from detrcli.variants import preset, variant_of
from detrcli.variants.with_masks import DETECTOR
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

    Names are compared without regard to case and surrounding space. A head's rows behind those of the classes,
    such as that of "no object", always stay.
    """
    variant, tensors = weights.variant, dict(weights.tensors)
    known = {key(name): row for row, name in enumerate(weights.classes.names) if name != UNUSED}
    rows = {index: known[key(name)] for index, name in enumerate(classes.names) if key(name) in known}
    before, wanted = weights.config.queries, queries or weights.config.queries
    config = variant.changed(weights.config, classes=len(classes), queries=wanted)

    for name, fresh in variant.class_rows(config).items():
        old, new = tensors[name], fresh.clone()
        new[len(classes) :] = old[weights.config.classes :]
        for index, row in rows.items():
            new[index] = old[row]
        tensors[name] = new
    for name, fresh in variant.query_rows(config).items() if wanted != before else ():
        common = min(before, wanted)
        tensors[name] = torch.cat([tensors[name][:common], fresh[common:]])

    kept = [str(classes.names[index]) for index in rows]
    found = set(map(key, kept))
    return Fitted(
        weights=replace(weights, config=config, tensors=tensors, classes=classes),
        kept=kept,
        fresh=[str(name) for index, name in enumerate(classes.names) if index not in rows],
        dropped=[str(name) for name in weights.classes.names if name != UNUSED and key(name) not in found],
        queries=_what_became_of_queries(before, wanted),
    )


def with_mask_head(weights: Weights, model: str, head: Mapping[str, Tensor] | None = None) -> Weights:
    """A detector's weights in a model with this mask head on such a detector; a new one starts from torch's state."""
    wanted = preset(model)
    variant = variant_of(wanted)
    if difference := variant.difference(weights.config, wanted):
        raise UsageError(f"{weights.source}: not the detector of a {model}: {difference}.")
    config = variant.config(**{one.name: getattr(weights.config, one.name) for one in fields(weights.config)})
    tensors = dict(variant.build(config).state_dict() if head is None else head)
    tensors |= {DETECTOR + name: tensor for name, tensor in weights.tensors.items()}
    terms = {**variant.loss.loss, **weights.loss.loss}
    return replace(weights, config=config, tensors=tensors, loss=replace(weights.loss, loss=terms))


def _what_became_of_queries(old: int, wanted: int) -> str:
    if wanted < old:
        return f"the first {wanted} of {old} queries kept"
    return f"all {old} queries kept" + (f", {wanted - old} new ones added" if wanted > old else "")
