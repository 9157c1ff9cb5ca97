"""Data of the report's page: its images for the viewer, and the tiles of its galleries."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from detrcli.evaluation.outcomes import FALSE_ALARMS, MISSED
from detrcli.evaluation.pairing import NONE
from detrcli.inspection.failures import Failures
from detrcli.inspection.survey import SurveyedImage
from detrcli.inspection.suspects import Suspect, rle_document, xyxy
from detrcli.render.viewer import cxcywh, view_document

Tile = dict[str, Any]


def view_of_failures(failures: Failures, image: SurveyedImage) -> dict[str, Any]:
    """Return the view of an image of a report, with the outcomes of its objects and detections."""
    outcomes, results, masks, queries = failures.outcomes, failures.results, failures.masks, failures.queries
    height, width = failures.session.size(image.index)
    size = np.array([width, height, width, height])
    of_image = results.image_ids == image.image_id  # (M,)
    detected = np.flatnonzero(of_image & (results.scores >= outcomes.threshold)).tolist()
    false_positives = np.flatnonzero(of_image & (outcomes.wrong != "")).tolist()
    return view_document(
        file=failures.session.file(image.index),
        size=(height, width),
        boxes=cxcywh(image.boxes / size),
        scores=image.scores,
        labels=image.labels,
        no_object=image.no_object,
        threshold=outcomes.threshold,
        targets=[_target(failures, n, size) for n in objects_in_order(failures, image)],
        pairs=image.pairs or (),
        false_positives={int(queries[m]): FALSE_ALARMS[str(outcomes.wrong[m])] for m in false_positives},
        masks={int(queries[m]): rle_document(masks.detections[m]) for m in detected} if masks else {},
    )


def _target(failures: Failures, n: int, size: np.ndarray) -> dict[str, Any]:
    outcomes, truth = failures.outcomes, failures.truth
    x, y, w, h = truth.boxes[n]
    reason, closest = str(outcomes.missed[n]), int(outcomes.closest[n])
    return {
        "label": str(truth.classes.names[truth.classes.ids == truth.of_category[n]][0]),
        "box": [round(value, 5) for value in (np.array([x + w / 2, y + h / 2, w, h]) / size).tolist()],
        "id": int(truth.annotation_ids[n]),
        "outcome": "crowd" if truth.crowd[n] else f"missed: {MISSED[reason]}" if reason else "detected",
        "missed": bool(reason),
        "closest": None if closest == NONE else int(failures.queries[closest]),
        "mask": None if failures.masks is None else rle_document(failures.masks.objects[n]),
    }


def objects_in_order(failures: Failures, image: SurveyedImage) -> list[int]:
    """Return the objects of an image as indices of the ground truth: first those that were matched, in their order."""
    objects = np.flatnonzero(failures.truth.of_image == image.image_id).tolist()
    by_id: dict[int, list[int]] = {}
    for n in objects:
        by_id.setdefault(int(failures.truth.annotation_ids[n]), []).append(n)
    matched = [by_id[annotation].pop(0) for annotation in image.annotation_ids]
    return [*matched, *(n for n in objects if n not in matched)]


def tiles_of(failures: Failures, shown: Mapping[int, int]) -> dict[str, list[Tile]]:
    """Return the tiles of each gallery for JSON, with boxes as xyxy in pixels.

    `shown` maps the ids of the images of the report to their positions. `selection` is what the viewer selects.
    """
    suspects = {
        kind: [_suspect(failures, suspect, shown) for suspect in of_kind if suspect.image_id in shown]
        for kind, of_kind in failures.suspects.items()
    }
    return {
        "missed": sorted(_missed(failures, shown), key=lambda tile: -(tile["score"] or 0)),
        "false_positive": sorted(_false_positives(failures, shown), key=lambda tile: -tile["score"]),
        **suspects,
    }


def _missed(failures: Failures, shown: Mapping[int, int]) -> Iterator[Tile]:
    outcomes, truth = failures.outcomes, failures.truth
    order = {image_id: objects_in_order(failures, failures.images[image_id]) for image_id in shown}
    for n in np.flatnonzero((outcomes.missed != "") & np.isin(truth.of_image, list(shown))).tolist():
        image_id, m = int(truth.of_image[n]), int(outcomes.closest[n])
        predicted: Tile = {"score": None}
        if m != NONE:
            predicted = {"predicted": int(failures.results.category_ids[m]), **_prediction(failures, m)}
        yield {
            "image": shown[image_id],
            "kind": str(outcomes.missed[n]),
            "category": int(truth.of_category[n]),
            "box": xyxy(truth.boxes[n].tolist()),
            "annotation": int(truth.annotation_ids[n]),
            "selection": {"object": order[image_id].index(n)},
            **predicted,
        }


def _false_positives(failures: Failures, shown: Mapping[int, int]) -> Iterator[Tile]:
    outcomes, results = failures.outcomes, failures.results
    for m in np.flatnonzero((outcomes.wrong != "") & np.isin(results.image_ids, list(shown))).tolist():
        n = int(outcomes.on[m])
        yield {
            "image": shown[int(results.image_ids[m])],
            "kind": str(outcomes.wrong[m]),
            "category": int(results.category_ids[m]),
            "selection": {"query": int(failures.queries[m])},
            "box": None if n == NONE else xyxy(failures.truth.boxes[n].tolist()),
            **_prediction(failures, m),
        }


def _prediction(failures: Failures, m: int) -> Tile:
    score, box = float(failures.results.scores[m]), failures.results.boxes[m].tolist()
    return {"score": round(score, 3), "other": xyxy(box), "query": int(failures.queries[m])}


def _suspect(failures: Failures, suspect: Suspect, shown: Mapping[int, int]) -> Tile:
    missing, matched = suspect.annotation_id is None, list(failures.images[suspect.image_id].annotation_ids)
    position = matched.index(suspect.annotation_id) if suspect.annotation_id in matched else None
    other = suspect.box if missing else suspect.suggested_box
    return {
        "image": shown[suspect.image_id],
        "kind": suspect.kind,
        "category": suspect.category_id,
        "score": round(suspect.score, 3),
        "annotation": suspect.annotation_id,
        "predicted": suspect.suggested_category_id,
        "box": None if missing else xyxy(suspect.box),
        "other": None if other is None else xyxy(other),
        "iou": None if suspect.iou is None else round(suspect.iou, 3),
        "of": suspect.of,
        "selection": None if position is None else {"object": position},
        **({} if suspect.mask is None else {"masks": [suspect.mask, suspect.suggested_mask]}),
    }
