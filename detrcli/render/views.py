"""Images of a split for the viewer, and the tiles of the report's galleries."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from detrcli.evaluation.outcomes import FALSE_ALARMS, MISSED
from detrcli.evaluation.pairing import NONE
from detrcli.inspection.failures import Failures
from detrcli.inspection.maps import boxes_to_image
from detrcli.inspection.match_report import MatchReport
from detrcli.inspection.survey import SurveyedImage
from detrcli.inspection.suspects import Suspect, rle_document, xyxy
from detrcli.losses.scoring import NO_OBJECT
from detrcli.render.viewer import ImageView, ObjectView, cxcywh


def view_of_matching(report: MatchReport) -> ImageView:
    """Return the view of an image whose matching was explained."""
    missed = {n: f"missed: {report.miss_reason(layers[-1])}" for n, layers in report.missed.items()}
    boxes = boxes_to_image(report.target.boxes.numpy(), report.placement)  # (N, 4)
    return ImageView(
        file=report.file,
        width=report.width,
        height=report.height,
        names=[str(name) for name in report.classes.names],
        boxes=np.stack([boxes_to_image(layer.boxes, report.placement) for layer in report.layers]),
        scores=np.stack([layer.scores for layer in report.layers]),
        labels=np.stack([layer.labels for layer in report.layers]),
        no_object=np.stack([layer.top == NO_OBJECT for layer in report.layers]),
        threshold=report.threshold,
        objects=[
            ObjectView(report.target_name(n), _rounded(box), annotation, missed.get(n, "detected"), n in missed)
            for n, (box, annotation) in enumerate(zip(boxes, report.annotation_ids, strict=True))
        ],
        pairs=[layer.pairs for layer in report.layers],
        false_positives={fp.query: report.describe(fp) for fp in report.false_positives},
    )


def view_of_failures(failures: Failures, image: SurveyedImage) -> ImageView:
    """Return the view of an image of a report, with the outcomes of its objects and detections."""
    outcomes, truth, masks, queries = failures.outcomes, failures.truth, failures.masks, failures.queries
    height, width = failures.session.size(image.index)
    size = np.array([width, height, width, height])
    names = dict(zip(truth.classes.ids.tolist(), truth.classes.names.tolist(), strict=True))
    of_image = (failures.results.image_ids == image.image_id) & (failures.results.scores >= outcomes.threshold)

    def object_view(n: int) -> ObjectView:
        x, y, w, h = truth.boxes[n]
        reason, closest = str(outcomes.missed[n]), int(outcomes.closest[n])
        return ObjectView(
            label=str(names[int(truth.of_category[n])]),
            box=_rounded(np.array([x + w / 2, y + h / 2, w, h]) / size),
            id=int(truth.annotation_ids[n]),
            outcome="crowd" if truth.crowd[n] else f"missed: {MISSED[reason]}" if reason else "detected",
            missed=bool(reason),
            closest=None if closest == NONE else int(queries[closest]),
            mask=None if masks is None else rle_document(masks.objects[n]),
        )

    false_positives = np.flatnonzero((failures.results.image_ids == image.image_id) & (outcomes.wrong != "")).tolist()
    detected_masks = [] if masks is None else np.flatnonzero(of_image).tolist()
    return ImageView(
        file=failures.session.file(image.index),
        width=width,
        height=height,
        names=[str(name) for name in failures.session.classes.names],
        boxes=cxcywh(image.boxes / size),
        scores=image.scores,
        labels=image.labels,
        no_object=image.no_object,
        threshold=outcomes.threshold,
        objects=[object_view(n) for n in objects_in_order(failures, image)],
        pairs=image.pairs or (),
        false_positives={int(queries[m]): FALSE_ALARMS[str(outcomes.wrong[m])] for m in false_positives},
        masks={int(queries[m]): rle_document(masks.detections[m]) for m in detected_masks} if masks else {},
    )


def objects_in_order(failures: Failures, image: SurveyedImage) -> list[int]:
    """Return the objects of an image as indices of the ground truth: first those that were matched, in their order."""
    objects = np.flatnonzero(failures.truth.of_image == image.image_id).tolist()
    by_id: dict[int, list[int]] = {}
    for n in objects:
        by_id.setdefault(int(failures.truth.annotation_ids[n]), []).append(n)
    matched = [by_id[annotation].pop(0) for annotation in image.annotation_ids]
    return [*matched, *(n for n in objects if n not in matched)]


def tiles_of(failures: Failures, shown: Mapping[int, int]) -> dict[str, list[dict[str, Any]]]:
    """Return the tiles of each gallery for JSON, with boxes as xyxy in pixels.

    `shown` maps the ids of the images of the report to their positions. `selection` is what the viewer selects.
    """
    outcomes, truth, results, queries = failures.outcomes, failures.truth, failures.results, failures.queries
    images = [image for image in failures.survey.images if image.image_id in shown]
    position_of = {n: i for image in images for i, n in enumerate(objects_in_order(failures, image))}
    position_of_annotation = {
        (image.image_id, annotation): i for image in images for i, annotation in enumerate(image.annotation_ids)
    }

    def prediction(m: int) -> dict[str, Any]:
        return {
            "score": round(float(results.scores[m]), 3),
            "other": xyxy(results.boxes[m].tolist()),
            "query": int(queries[m]),
        }

    missed: list[dict[str, Any]] = [
        {
            "image": shown[int(truth.of_image[n])],
            "kind": str(outcomes.missed[n]),
            "category": int(truth.of_category[n]),
            "box": xyxy(truth.boxes[n].tolist()),
            "annotation": int(truth.annotation_ids[n]),
            "selection": {"object": position_of[n]},
            "score": None,
        }
        | ({} if m == NONE else {"predicted": int(results.category_ids[m]), **prediction(m)})
        for n, m in enumerate(outcomes.closest.tolist())
        if outcomes.missed[n] and int(truth.of_image[n]) in shown
    ]
    false_positives: list[dict[str, Any]] = [
        {
            "image": shown[int(results.image_ids[m])],
            "kind": str(outcomes.wrong[m]),
            "category": int(results.category_ids[m]),
            **prediction(m),
            "selection": {"query": int(queries[m])},
            "box": None if n == NONE else xyxy(truth.boxes[n].tolist()),
        }
        for m, n in enumerate(outcomes.on.tolist())
        if outcomes.wrong[m] and int(results.image_ids[m]) in shown
    ]

    def tile(suspect: Suspect) -> dict[str, Any]:
        missing = suspect.annotation_id is None
        position = position_of_annotation.get((suspect.image_id, suspect.annotation_id or 0))
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
        } | ({} if suspect.mask is None else {"masks": [suspect.mask, suspect.suggested_mask]})

    missed.sort(key=lambda tile: -(tile["score"] or 0))
    false_positives.sort(key=lambda tile: -tile["score"])
    return {
        "missed": missed,
        "false_positive": false_positives,
        **{
            kind: [tile(suspect) for suspect in suspects if suspect.image_id in shown]
            for kind, suspects in failures.suspects.items()
        },
    }


def _rounded(box: np.ndarray) -> list[float]:
    return [round(float(value), 5) for value in box]
