"""Fitting checkpoints to other classes, another number of queries, or a model with a mask head."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from detrcli.architectures import preset
from detrcli.architectures.mask_heads import DETECTOR
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.coco import UNUSED
from detrcli.errors import UsageError
from detrcli.messages import argument
from detrcli.structures import Classes
from detrcli.system.text import normalize_name


@dataclass(frozen=True)
class Fitted:
    """A fitted checkpoint, and what changed."""

    checkpoint: Checkpoint
    kept: list[str]  # names of classes that were known
    fresh: list[str]  # names of classes that are newly initialized
    dropped: list[str]  # names of classes that were removed
    queries: str  # what happened to the object queries, in words


@torch.no_grad()
def fit(checkpoint: Checkpoint, classes: Classes, queries: int | None = None) -> Fitted:
    """Keep the class head's rows of known classes; initialize the others as in a new model, by torch's random state.

    Names are compared without case and surrounding space. The row of the no-object class is kept.
    """
    architecture, tensors = checkpoint.architecture, dict(checkpoint.tensors)
    known = {normalize_name(name): row for row, name in enumerate(checkpoint.classes.names) if name != UNUSED}
    rows = {  # old row by new class index
        index: known[normalize_name(name)] for index, name in enumerate(classes.names) if normalize_name(name) in known
    }
    before, wanted = checkpoint.config.queries, queries or checkpoint.config.queries
    config = architecture.changed(checkpoint.config, classes=len(classes), queries=wanted)

    limit = architecture.max_queries(checkpoint.config, checkpoint.preprocessing.resize)
    if limit is not None and wanted > limit:
        raise UsageError(
            f"{argument('queries', wanted)}: from an input of {checkpoint.preprocessing.resize}, the model can select "
            f"{limit} queries.\nUse at most {argument('queries', limit)}, or a larger {argument('size')}."
        )

    for name, (new, *_) in architecture.fresh_rows(config, "classes").items():
        old = tensors[name]
        new[len(classes) :] = old[checkpoint.config.classes :]
        for index, row in rows.items():
            new[index] = old[row]
        tensors[name] = new
    if wanted != before:
        for name, query_rows in architecture.fresh_rows(config, "queries").items():
            tensors[name] = query_rows.keep_queries(tensors[name], before, wanted, draw=architecture.draws_queries)

    changes = f"the first {wanted} of {before} queries kept" if wanted < before else f"all {before} queries kept"
    return Fitted(
        checkpoint=replace(checkpoint, config=config, tensors=tensors, classes=classes),
        kept=[str(classes.names[index]) for index in rows],
        fresh=[str(name) for index, name in enumerate(classes.names) if index not in rows],
        dropped=[str(checkpoint.classes.names[row]) for row in known.values() if row not in rows.values()],
        queries=changes + (f", {wanted - before} new queries added" if wanted > before else ""),
    )


def with_mask_head(checkpoint: Checkpoint, model: str, head: Mapping[str, Tensor] | None = None) -> Checkpoint:
    """Return a detector's checkpoint with a mask head as in `model`, by default newly initialized."""
    architecture, wanted = preset(model)
    detector = architecture.detector
    if checkpoint.architecture is not detector or detector.summary(checkpoint.config) != detector.summary(wanted):
        description = checkpoint.architecture.describe(checkpoint.config)
        raise UsageError(f"{checkpoint.source}: not the detector of a {model}: it is a {description}.")
    tensors = dict(architecture.build(checkpoint.config).state_dict() if head is None else head)
    tensors |= {DETECTOR + name: tensor for name, tensor in checkpoint.tensors.items()}
    loss = replace(checkpoint.loss, loss={**architecture.loss.loss, **checkpoint.loss.loss})
    return replace(checkpoint, architecture=architecture, tensors=tensors, loss=loss)
