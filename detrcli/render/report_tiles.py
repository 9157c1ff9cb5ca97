"""The tiles of the galleries of `detr report`, in plain values that its script draws."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from detrcli.evaluation.pairing import NONE
from detrcli.inspection.failures import Failures
from detrcli.inspection.suspects import Suspect, corners
from detrcli.render.views import place_of_objects


def tiles_of(failures: Failures, shown: Mapping[int, int]) -> dict[str, list[dict[str, Any]]]:
    """What each gallery shows, of images that are in the page; boxes as x0, y0, x1, y1 in pixels."""
    outcomes, truth, results = failures.outcomes, failures.truth, failures.results
    place_of = {
        image.image_id: place_of_objects(failures, image) for image in failures.survey.images if image.image_id in shown
    }
    queries = failures.queries

    def box(values: np.ndarray) -> list[float]:
        return corners(values.tolist())

    missed: list[dict[str, Any]] = []
    for n in np.flatnonzero(outcomes.missed != "").tolist():
        image, closest = int(truth.of_image[n]), int(outcomes.closest[n])
        if image in shown:
            entry = {
                "image": shown[image], "kind": str(outcomes.missed[n]), "category": int(truth.of_category[n]),
                "box": box(truth.boxes[n]), "annotation": int(truth.annotation_ids[n]),
                "chosen": {"object": place_of[image][n]}, "score": None,
            }  # fmt: skip
            if closest != NONE:
                entry |= {
                    "said": int(results.category_ids[closest]), "score": round(float(results.scores[closest]), 3),
                    "other": box(results.boxes[closest]), "query": int(queries[closest]),
                }  # fmt: skip
            missed.append(entry)
    alarms: list[dict[str, Any]] = [
        {
            "image": shown[int(results.image_ids[m])], "kind": str(outcomes.wrong[m]),
            "category": int(results.category_ids[m]), "score": round(float(results.scores[m]), 3),
            "other": box(results.boxes[m]), "query": int(queries[m]), "chosen": {"query": int(queries[m])},
            "box": None if outcomes.on[m] == NONE else box(truth.boxes[outcomes.on[m]]),
        }
        for m in np.flatnonzero(outcomes.wrong != "").tolist()
        if int(results.image_ids[m]) in shown
    ]  # fmt: skip
    place_of_annotation = {
        (image.image_id, annotation): place
        for image in failures.survey.images
        if image.image_id in shown
        for place, annotation in enumerate(image.annotation_ids)
    }

    def suspect(one: Suspect) -> dict[str, Any]:
        missing = one.annotation_id is None
        place = place_of_annotation.get((one.image_id, one.annotation_id or 0))
        other = one.box if missing else one.suggested_box
        return {
            "image": shown[one.image_id], "kind": one.kind, "category": one.category_id,
            "score": round(one.score, 3), "annotation": one.annotation_id, "said": one.suggested_category_id,
            "box": None if missing else corners(one.box), "other": None if other is None else corners(other),
            "iou": None if one.iou is None else round(one.iou, 3), "of": one.of,
            "chosen": None if place is None else {"object": place},
            **({} if one.mask is None else {"masks": [one.mask, one.suggested_mask]}),
        }  # fmt: skip

    missed.sort(key=lambda one: -(one["score"] or 0))
    alarms.sort(key=lambda one: -one["score"])
    return {
        "missed": missed,
        "alarm": alarms,
        **{
            kind: [suspect(one) for one in members if one.image_id in shown]
            for kind, members in failures.suspects.items()
        },
    }
