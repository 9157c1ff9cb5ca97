"""Weights made to fit other classes, or another number of queries."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from detrcli.architectures import architecture_of, preset
from detrcli.architectures.with_masks import DETECTOR
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.coco import UNUSED
from detrcli.errors import UsageError
from detrcli.structures import Classes
from detrcli.system.text import normalize_name


@dataclass(frozen=True)
class Fitted:
    """The weights that fit, and what became of the ones they were made from."""

    checkpoint: Checkpoint
    kept: list[str]  # classes that are known already, by name
    fresh: list[str]  # classes that start anew
    dropped: list[str]  # classes that went
    queries: str  # what became of the object queries, in words


@torch.no_grad()
def fit(checkpoint: Checkpoint, classes: Classes, queries: int | None = None) -> Fitted:
    """Keep what is known by name and start the rest as a new model would, from torch's random state.

    Names are compared without regard to case and surrounding space. A head's rows behind those of the classes,
    such as that of "no object", always stay.
    """
    architecture, tensors = checkpoint.architecture, dict(checkpoint.tensors)
    known = {normalize_name(name): row for row, name in enumerate(checkpoint.classes.names) if name != UNUSED}
    rows = {
        index: known[normalize_name(name)] for index, name in enumerate(classes.names) if normalize_name(name) in known
    }
    before, wanted = checkpoint.config.queries, queries or checkpoint.config.queries
    config = architecture.changed(checkpoint.config, classes=len(classes), queries=wanted)

    for name, fresh in architecture.class_rows(config).items():
        old, new = tensors[name], fresh.clone()
        new[len(classes) :] = old[checkpoint.config.classes :]
        for index, row in rows.items():
            new[index] = old[row]
        tensors[name] = new
    for name, fresh in architecture.query_rows(config).items() if wanted != before else ():
        common = min(before, wanted)
        tensors[name] = torch.cat([tensors[name][:common], fresh[common:]])

    kept = [str(classes.names[index]) for index in rows]
    found = set(map(normalize_name, kept))
    return Fitted(
        checkpoint=replace(checkpoint, config=config, tensors=tensors, classes=classes),
        kept=kept,
        fresh=[str(name) for index, name in enumerate(classes.names) if index not in rows],
        dropped=[
            str(name) for name in checkpoint.classes.names if name != UNUSED and normalize_name(name) not in found
        ],
        queries=_what_became_of_queries(before, wanted),
    )


def with_mask_head(checkpoint: Checkpoint, model: str, head: Mapping[str, Tensor] | None = None) -> Checkpoint:
    """A detector's weights in a model with this mask head on such a detector; a new one starts from torch's state."""
    wanted = preset(model)
    architecture = architecture_of(wanted)
    if difference := architecture.difference(checkpoint.config, wanted):
        raise UsageError(f"{checkpoint.source}: not the detector of a {model}: {difference}.")
    config = architecture.config(
        **{one.name: getattr(checkpoint.config, one.name) for one in fields(checkpoint.config)}
    )
    tensors = dict(architecture.build(config).state_dict() if head is None else head)
    tensors |= {DETECTOR + name: tensor for name, tensor in checkpoint.tensors.items()}
    terms = {**architecture.loss.loss, **checkpoint.loss.loss}
    return replace(checkpoint, config=config, tensors=tensors, loss=replace(checkpoint.loss, loss=terms))


def _what_became_of_queries(old: int, wanted: int) -> str:
    if wanted < old:
        return f"the first {wanted} of {old} queries kept"
    return f"all {old} queries kept" + (f", {wanted - old} new ones added" if wanted > old else "")
