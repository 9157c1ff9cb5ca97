"""Detections of some classes only."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from detrcli.errors import UsageError
from detrcli.inference.detector import ImageResult
from detrcli.structures import Classes
from detrcli.system.text import key
from detrcli.weights.coco import UNUSED


def chosen_ids(known: Classes, asked: str) -> np.ndarray:
    """The ids of classes by their names, A,B,...; a name that the weights do not know is an error."""
    wanted = {key(name): name.strip() for name in asked.split(",") if name.strip()}
    keys = [key(name) for name in known.names.tolist()]
    missing = [name for one, name in wanted.items() if one not in keys]
    if missing or not wanted:
        there = dict.fromkeys(name for name in known.names.tolist() if name != UNUSED)
        what = f"the weights have no {', '.join(missing)}" if missing else "no class is named"
        raise UsageError(f"--classes: {what}. They have {', '.join(there)}.")
    return known.ids[[one in wanted for one in keys]]


def of_classes(results: Iterable[ImageResult], ids: np.ndarray) -> Iterator[ImageResult]:
    """The results with detections of these classes alone."""
    for result in results:
        found = result.detections
        yield (
            result
            if found is None
            else replace(result, detections=found.part(np.isin(found.category_ids, ids)))
        )
