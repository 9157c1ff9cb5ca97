"""The loss of an image taken apart: what each object adds to it, and what the queries without one do."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from detrcli.losses.criterion import Criterion, Matched, pair_up
from detrcli.structures import Output, Target


@dataclass(frozen=True)
class ObjectLosses:
    """What a decoder layer is charged, weighted."""

    targets: np.ndarray  # (N, 3): class, l1, giou of each object; 0 where no query was left for it
    background: float  # the class term of the queries that should say "no object"


@torch.no_grad()
def charges(
    output: Output, target: Target, criterion: Criterion, normalisers: Mapping[str, float] | None = None
) -> list[ObjectLosses]:
    """The charges of every layer for a single image, by the criterion's own terms.

    With the default normalisers, those of a training step that sees this image alone, they sum to the
    criterion's total. With normalisers of 1, objects of different images can be compared.
    """
    if normalisers is None:
        normalisers = criterion.normalisers([[target]], output.last.logits.shape[1])

    def charge(part: Matched) -> np.ndarray:
        return np.array(
            [term.weight * float(term.total(part)) / normalisers[term.name] for term in criterion.terms]
        )  # (3,)

    layers = []
    matches = criterion(output, [target]).matches
    for group in output.groups:
        match = matches[group.name]
        whole = pair_up(group.prediction, match, [target])
        targets = np.zeros((len(target.labels), len(criterion.terms)))
        free = torch.ones(whole.classes.shape[1], dtype=torch.bool, device=whole.classes.device)  # (Q,)
        for i, (query, n) in enumerate(zip(match.queries.tolist(), match.targets.tolist(), strict=True)):
            one, pair = slice(query, query + 1), slice(i, i + 1)
            targets[n] = charge(
                Matched(whole.logits[:, one], whole.classes[:, one], whole.boxes[pair], whole.truth[pair])
            )
            free[query] = False
        rest = charge(
            Matched(whole.logits[:, free], whole.classes[:, free], whole.boxes[:0], whole.truth[:0])
        )
        layers.append(ObjectLosses(targets, float(rest.sum())))
    return layers
