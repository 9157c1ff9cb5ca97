"""Which class of the weights is which class of the data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from detrcli.checkpoints.coco import UNUSED
from detrcli.errors import DataError
from detrcli.structures import Classes
from detrcli.system.text import normalize_name, preview

UNKNOWN_CLASS = -(2**63)  # the category id of a class that the data does not have


@dataclass(frozen=True)
class ClassMapping:
    """The weights' classes in the data's terms, and what found no partner."""

    classes: Classes  # (K,) of the weights, with the data's ids; UNKNOWN_CLASS where it has none
    by: Literal["name", "id"]
    only_weights: Sequence[str]
    only_data: Sequence[str]
    pairs: Sequence[tuple[str, str]] = ()  # of the weights and of the data, where names do not tell


def map_classes(weights: Classes, data: Classes, *, match_classes_by_id: bool = False) -> ClassMapping:
    """By name, without regard to case and surrounding space; by id where no name matches, if that is wanted.

    A name that stands twice in the data goes to the entry of the same id, else to the one of the lowest id.
    """
    there: dict[str, list[int]] = {}
    for category, name in zip(data.ids.tolist(), data.names.tolist(), strict=True):
        there.setdefault(normalize_name(name), []).append(category)
    used = [(i, str(name)) for i, name in zip(weights.ids.tolist(), weights.names, strict=True)]

    by: Literal["name", "id"] = "name"
    ids = []
    for category, name in used:
        same = there.get(normalize_name(name), []) if name != UNUSED else []
        ids.append(category if category in same else min(same, default=UNKNOWN_CLASS))
    ours = preview([name for _, name in used if name != UNUSED], 5)
    nothing = f"Weights: {ours}. Data: {preview(data.names.tolist(), 5)}."
    if all(i == UNKNOWN_CLASS for i in ids):
        if not match_classes_by_id:
            raise DataError(
                f"No class of the weights has the name of one of the data's.\n{nothing}\n"
                "Where equal ids mean equal classes, --match-classes-by-id pairs them so."
            )
        by, known = "id", set(data.ids.tolist())
        ids = [category if category in known and name != UNUSED else UNKNOWN_CLASS for category, name in used]
    if all(i == UNKNOWN_CLASS for i in ids):
        raise DataError(f"No class of the weights is one of the data's, neither by name nor by id.\n{nothing}")
    paired = set(ids)
    theirs = dict(zip(data.ids.tolist(), map(str, data.names), strict=True))
    return ClassMapping(
        classes=Classes(ids=np.array(ids, dtype=np.int64), names=weights.names, things=weights.things),
        by=by,
        only_weights=[name for (_, name), i in zip(used, ids, strict=True) if i == UNKNOWN_CLASS and name != UNUSED],
        only_data=[str(name) for i, name in zip(data.ids.tolist(), data.names, strict=True) if i not in paired],
        pairs=[(name, theirs[i]) for (_, name), i in zip(used, ids, strict=True) if i in theirs] if by == "id" else (),
    )
