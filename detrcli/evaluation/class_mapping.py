"""Mapping from the classes of a model to those of a dataset."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from detrcli.checkpoints.coco import UNUSED
from detrcli.errors import DataError
from detrcli.messages import argument
from detrcli.structures import Classes
from detrcli.system.text import normalize_name, preview

UNKNOWN_CLASS = -(2**63)  # the category id of a class that the data does not have


@dataclass(frozen=True)
class ClassMapping:
    classes: Classes  # (K,) of the model, with the data's ids; UNKNOWN_CLASS where the data has no such class
    by: Literal["name", "id"]
    only_weights: Sequence[str]
    only_data: Sequence[str]
    pairs: Sequence[tuple[str, str]] = ()  # names of the model's and the data's class, where mapped by id


def map_classes(weights: Classes, data: Classes, *, match_classes_by_id: bool = False) -> ClassMapping:
    """Map classes by name, ignoring case and surrounding space; by id if no name matches and this is allowed.

    A name that the data has twice maps to its class of the same id, else to that of the lowest id.
    """
    name_of = dict(zip(data.ids.tolist(), data.names.tolist(), strict=True))
    ids_of: dict[str, list[int]] = {}
    for id_, name in name_of.items():
        ids_of.setdefault(normalize_name(name), []).append(id_)
    used = list(zip(weights.ids.tolist(), weights.names.tolist(), strict=True))
    same = [ids_of.get(normalize_name(name), []) if name != UNUSED else [] for _, name in used]
    ids = [id_ if id_ in ids_ else min(ids_, default=UNKNOWN_CLASS) for (id_, _), ids_ in zip(used, same, strict=True)]
    if by_id := not any(same):
        ids = [id_ if id_ in name_of and name != UNUSED else UNKNOWN_CLASS for id_, name in used]
        names = preview([name for _, name in used if name != UNUSED], 5), preview(data.names.tolist(), 5)
        both = f"Weights: {names[0]}. Data: {names[1]}."
        if not match_classes_by_id:
            raise DataError(
                f"The weights and the data share no class name.\n{both}\n"
                f"If equal ids mean equal classes, use {argument('match_classes_by_id')}."
            )
        if set(ids) <= {UNKNOWN_CLASS}:
            raise DataError(f"The weights and the data share no class, neither by name nor by id.\n{both}")
    mapped = [(name, id_) for (_, name), id_ in zip(used, ids, strict=True)]
    return ClassMapping(
        classes=replace(weights, ids=np.array(ids, dtype=np.int64)),
        by="id" if by_id else "name",
        only_weights=[name for name, id_ in mapped if id_ == UNKNOWN_CLASS and name != UNUSED],
        only_data=[name for id_, name in name_of.items() if id_ not in ids],
        pairs=[(name, name_of[id_]) for name, id_ in mapped if id_ in name_of] if by_id else (),
    )
