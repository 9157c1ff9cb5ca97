"""Images of a split as the viewer shows them: from one matching, or from what went wrong in all of them."""

from collections.abc import Sequence

import numpy as np

from detrcli.evaluation.outcomes import FALSE_ALARMS, MISSED
from detrcli.evaluation.pairing import NONE
from detrcli.inspection.explained import of_picture
from detrcli.inspection.failures import Failures
from detrcli.inspection.mask_failures import plain
from detrcli.inspection.report import MatchReport
from detrcli.inspection.survey import SurveyedImage
from detrcli.render.viewer import ImageView, ObjectView, centred


def view_of_matching(report: MatchReport, nothing: np.ndarray) -> ImageView:
    """The image whose matching was explained; `nothing` (L, Q) says where "no object" is likeliest."""
    missed = {one.target: report.why(one.answers[-1]) for one in report.missed}
    boxes = of_picture(report.target.boxes.numpy(), report.placement)  # (N, 4)
    return ImageView(
        file=report.file,
        width=report.width,
        height=report.height,
        names=[str(name) for name in report.classes.names],
        boxes=np.stack([of_picture(layer.boxes, report.placement) for layer in report.layers]),
        scores=np.stack([layer.scores for layer in report.layers]),
        labels=np.stack([layer.labels for layer in report.layers]),
        nothing=nothing,
        threshold=report.threshold,
        objects=[
            ObjectView(
                report.target_name(n),
                _plain(box),
                annotation,
                f"missed: {missed[n]}" if n in missed else "found",
                n in missed,
            )
            for n, (box, annotation) in enumerate(zip(boxes, report.annotation_ids, strict=True))
        ],
        pairs=[layer.pairs for layer in report.layers],
        alarms={one.query: report.what(one) for one in report.extra},
    )


def view_of_failures(failures: Failures, image: SurveyedImage) -> ImageView:
    """An image of a split with what became of its objects and detections."""
    outcomes, truth = failures.outcomes, failures.truth
    height, width = failures.session.size(image.place)
    size = np.array([width, height, width, height])
    places = _objects(failures, image)
    queries = failures.queries
    alarms = failures.alarms_of.get(image.image_id, np.zeros(0, dtype=int))
    names = dict(zip(truth.classes.ids.tolist(), truth.classes.names.tolist(), strict=True))

    masks, threshold = failures.masks, outcomes.threshold
    here = np.flatnonzero((failures.results.image_ids == image.image_id) & (failures.results.scores >= threshold))

    def shown(n: int) -> ObjectView:
        x, y, w, h = truth.boxes[n]
        kind, closest = str(outcomes.missed[n]), int(outcomes.closest[n])
        fate = "a crowd" if truth.crowd[n] else f"missed: {MISSED[kind]}" if kind else "found"
        return ObjectView(
            label=str(names[int(truth.of_category[n])]),
            box=_plain(np.array([x + w / 2, y + h / 2, w, h]) / size),
            id=int(truth.annotation_ids[n]),
            fate=fate,
            missed=bool(kind),
            closest=None if closest == NONE else int(queries[closest]),
            mask=None if masks is None else plain(masks.objects[n]),
        )

    return ImageView(
        file=failures.session.file(image.place),
        width=width,
        height=height,
        names=[str(name) for name in failures.session.classes.names],
        boxes=centred(image.boxes / size),
        scores=image.scores,
        labels=image.labels,
        nothing=image.nothing,
        threshold=threshold,
        objects=[shown(n) for n in places],
        pairs=image.pairs or (),
        alarms={int(queries[m]): FALSE_ALARMS[str(outcomes.wrong[m])] for m in alarms.tolist()},
        masks={} if masks is None else {int(queries[m]): plain(masks.detections[m]) for m in here.tolist()},
    )


def _objects(failures: Failures, image: SurveyedImage) -> list[int]:
    """The objects of an image, counted through the truth: first those that were matched, in their order."""
    own = failures.objects_of.get(image.image_id, np.zeros(0, dtype=int)).tolist()
    by_id: dict[int, list[int]] = {}
    for n in own:
        by_id.setdefault(int(failures.truth.annotation_ids[n]), []).append(n)
    matched = [by_id[annotation].pop(0) for annotation in image.annotation_ids]
    return [*matched, *(n for n in own if n not in matched)]


def place_of_objects(failures: Failures, image: SurveyedImage) -> dict[int, int]:
    """Where the viewer has each object of an image, by its place in the truth."""
    return {n: place for place, n in enumerate(_objects(failures, image))}


def _plain(box: np.ndarray) -> Sequence[float]:
    return [round(float(value), 5) for value in box]
