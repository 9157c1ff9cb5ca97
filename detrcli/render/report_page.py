"""The page of `detr report`: a folder with `index.html`, the images, and the data of each image.

The page loads the data of an image when the image is opened.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detrcli.boxes import from_pixels
from detrcli.errors import DataError
from detrcli.evaluation.outcomes import FALSE_POSITIVES, MISSED
from detrcli.evaluation.pairing import NONE
from detrcli.inspection.failures import Failures, SurveyedImage
from detrcli.inspection.matching import explain_group
from detrcli.inspection.record import record_image
from detrcli.inspection.suspects import SUSPECT_KINDS, Suspect, rle_document, xyxy
from detrcli.render import charts, viewer
from detrcli.render.page import shrunk, write_page
from detrcli.render.report_sections import Advice, Instability, sections_of
from detrcli.render.viewer import view_document
from detrcli.system.files import write_whole
from detrcli.system.text import escape_controls

SCRIPT = viewer.SCRIPT + Path(__file__).with_name("report.js").read_text(encoding="utf-8")
STYLE = charts.STYLE + viewer.STYLE + Path(__file__).with_name("report.css").read_text(encoding="utf-8")
PAGE, IMAGES, DATA = "index.html", "images", "data"
DEFAULT_IMAGES = 1000
DETAILED_IMAGES = 60  # images with attention and costs
DETAILED_QUERIES = 12  # queries of an image with attention

Tile = dict[str, Any]  # of a gallery, for JSON


def write_report(
    folder: Path,
    failures: Failures,
    *,
    advice: Sequence[Advice] | None = None,
    instability: Instability | None = None,
    examples: Mapping[int, int] | None = None,
    limit: int = DEFAULT_IMAGES,
    seconds: float | None = None,
) -> Path:
    """Write the page into a new folder, and return its file.

    `advice` lists likely problems, most likely first. `examples` is the number of objects of each category in training.
    At most `limit` images are shown, the worst first. Attention is computed for at most about `seconds`.
    """
    end = None if seconds is None else time.monotonic() + seconds
    for name in (IMAGES, DATA):
        (folder / name).mkdir(parents=True, exist_ok=True)
    images = failures.worst_first()[:limit]
    outcomes = failures.outcomes.per_image.T.tolist()  # objects, detected objects and false positives
    counts = dict(zip(failures.truth.image_ids.tolist(), outcomes, strict=True))
    rows = []
    for i, surveyed in enumerate(images):
        image = failures.session.image(surveyed.index)
        url = f"{IMAGES}/{i}.{'png' if max(image.size) <= 400 else 'jpg'}"
        shrunk(image).save(folder / url, quality=85)
        objects, detected, false_positives = counts[surveyed.image_id]
        file, errors = escape_controls(failures.file(surveyed.image_id)), (objects - detected, false_positives)
        rows.append([surveyed.image_id, file, image.width, image.height, url, objects, *errors])
        detailed = i < DETAILED_IMAGES and (end is None or time.monotonic() < end)
        if detailed:
            _write_data(folder, f"{i}-attention", _attention_and_costs(failures, surveyed))
        _write_data(folder, f"{i}", {**view_of_failures(failures, surveyed), "url": url, "detailed": detailed})
    part = "" if failures.survey.complete else " (a part of the split)"
    ids, names = failures.truth.classes.ids.tolist(), failures.truth.classes.names.tolist()
    write_page(
        folder / PAGE,
        f"{failures.session.detector.checkpoint.source} on {failures.split}",
        f"{len(counts):,} images{part} with {failures.outcomes.objects:,} objects. Detections are predictions with a "
        f"score of at least {failures.outcomes.threshold:.2f}. An object is detected if a detection has its class and "
        "an IoU of at least 0.5.",
        list(sections_of(failures, advice, instability, examples)),
        style=STYLE,
        data={
            "names": [escape_controls(str(name)) for name in failures.session.classes.names],
            "categories": [[id_, escape_controls(name)] for id_, name in zip(ids, names, strict=True)],
            "colors": viewer.COLORS,
            "split": failures.split,
            "images": rows,
            "tiles": tiles_of(failures, {surveyed.image_id: i for i, surveyed in enumerate(images)}),
            "reasons": {"missed": MISSED, "false_positive": FALSE_POSITIVES, **{kind: {} for kind in SUSPECT_KINDS}},
        },
        script=SCRIPT,
    )
    document = json.dumps(failures.document(), indent=2, allow_nan=False)
    write_whole(folder / "report.json", (document + "\n").encode())
    return folder / PAGE


def _write_data(folder: Path, name: str, values: Mapping[str, Any]) -> None:
    """Write data as a script, the only file that a page opened from disk may load."""
    text = json.dumps(values, ensure_ascii=True, allow_nan=False)
    (folder / DATA / f"{name}.js").write_text(f"loaded({json.dumps(name)}, {text});\n", encoding="ascii")


def _attention_and_costs(failures: Failures, image: SurveyedImage) -> dict[str, Any]:
    """Return the costs of an image's matching, and the attention of the queries that matter most."""
    session, matcher = failures.session, failures.session.loss.matcher
    try:
        record = record_image(session.detector, session.image(image.index))
    except DataError:
        return {}
    if image.pairs is None or matcher is None:
        return viewer.attention_and_costs(record, [])
    matching = explain_group(record.forward.output.decoder, session.example(image.index).target, session.loss)
    relevant = matching.layers[-1].relevant_queries(failures.outcomes.threshold)
    matched = [pair.query for pair in image.pairs[-1]]
    queries = sorted(relevant, key=lambda query: (query not in matched, -image.scores[-1, query]))[:DETAILED_QUERIES]
    return viewer.attention_and_costs(record, queries, matching.layers, matcher.weights)


def view_of_failures(failures: Failures, image: SurveyedImage) -> dict[str, Any]:
    outcomes, results, masks, queries = failures.outcomes, failures.results, failures.masks, failures.queries
    height, width = failures.session.size(image.index)
    of_image = results.image_ids == image.image_id  # (M,)
    detected = np.flatnonzero(of_image & (results.scores >= outcomes.threshold)).tolist()
    false_positives = np.flatnonzero(of_image & (outcomes.wrong != "")).tolist()
    return view_document(
        file=failures.session.file(image.index),
        size=(height, width),
        boxes=from_pixels(torch.from_numpy(image.boxes).double(), height, width).numpy(),
        scores=image.scores,
        labels=image.labels,
        no_object=image.no_object,
        threshold=outcomes.threshold,
        targets=[_target(failures, n, (width, height)) for n in objects_in_order(failures, image)],
        pairs=image.pairs or (),
        false_positives={int(queries[m]): FALSE_POSITIVES[str(outcomes.wrong[m])] for m in false_positives},
        masks={int(queries[m]): rle_document(masks.detections[m]) for m in detected} if masks else {},
    )


def _target(failures: Failures, n: int, size: tuple[int, int]) -> dict[str, Any]:
    outcomes, truth = failures.outcomes, failures.truth
    x, y, w, h = truth.boxes[n]
    reason, closest = str(outcomes.missed[n]), int(outcomes.closest[n])
    return {
        "label": str(truth.classes.names[truth.classes.ids == truth.of_category[n]][0]),
        "box": [round(value, 5) for value in (np.array([x + w / 2, y + h / 2, w, h]) / (size * 2)).tolist()],
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
