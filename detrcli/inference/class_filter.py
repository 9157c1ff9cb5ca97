"""Detections of some classes only, or from another score on in each."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from detrcli.checkpoints.coco import UNUSED
from detrcli.errors import UsageError
from detrcli.inference.detector import ImageResult
from detrcli.structures import Classes
from detrcli.system.text import normalize_name


def chosen_ids(known: Classes, asked: str) -> np.ndarray:
    """The ids of classes by their names, A,B,...; a name that the weights do not know is an error."""
    wanted = {normalize_name(name): name.strip() for name in asked.split(",") if name.strip()}
    keys = [normalize_name(name) for name in known.names.tolist()]
    missing = [name for one, name in wanted.items() if one not in keys]
    if missing or not wanted:
        there = dict.fromkeys(name for name in known.names.tolist() if name != UNUSED)
        what = f"the weights have no {', '.join(missing)}" if missing else "no class is named"
        raise UsageError(f"--classes: {what}. They have {', '.join(there)}.")
    return known.ids[[one in wanted for one in keys]]


def above(
    results: Iterable[ImageResult], classes: Classes, overall: float, by_class: Mapping[str, float]
) -> Iterator[ImageResult]:
    """The results with detections whose score reaches the threshold of their class, by the keys of the names."""
    least = {
        int(id_): by_class.get(normalize_name(name), overall)
        for id_, name in zip(classes.ids, classes.names.tolist(), strict=True)
    }
    for result in results:
        found = result.detections
        if found is not None:
            wanted = np.array([least[int(id_)] for id_ in found.category_ids])
            result = replace(result, detections=found.part(found.scores >= wanted))
        yield result


def of_classes(results: Iterable[ImageResult], ids: np.ndarray) -> Iterator[ImageResult]:
    """The results with detections of these classes alone."""
    for result in results:
        found = result.detections
        yield (result if found is None else replace(result, detections=found.part(np.isin(found.category_ids, ids))))
