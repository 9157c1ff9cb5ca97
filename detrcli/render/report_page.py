"""The page of `detr report`: a folder with `index.html`, the images, and the data of each image.

The page loads the data of an image when the image is opened.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detrcli.errors import DataError
from detrcli.evaluation.outcomes import FALSE_ALARMS, MISSED
from detrcli.inspection.failures import Failures
from detrcli.inspection.matching import explain_group
from detrcli.inspection.record import record_image
from detrcli.inspection.survey import SurveyedImage
from detrcli.inspection.suspects import SUSPECT_KINDS
from detrcli.render import charts, viewer
from detrcli.render.page import shrunk, write_page
from detrcli.render.report_data import tiles_of, view_of_failures
from detrcli.render.report_sections import Advice, Steadiness, sections_of
from detrcli.system.files import write_whole
from detrcli.system.text import escape_controls

SCRIPT = viewer.SCRIPT + Path(__file__).with_name("report.js").read_text(encoding="utf-8")
STYLE = charts.STYLE + viewer.STYLE + Path(__file__).with_name("report.css").read_text(encoding="utf-8")
PAGE, IMAGES, DATA = "index.html", "images", "data"
DEFAULT_IMAGES = 1000
DETAILED_IMAGES = 60  # images with attention and costs
DETAILED_QUERIES = 12  # queries of an image with attention


def write_report(
    folder: Path,
    failures: Failures,
    *,
    advice: Sequence[Advice] | None = None,
    steadiness: Steadiness | None = None,
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
    ids, names = failures.truth.classes.ids.tolist(), failures.truth.classes.names.tolist()
    write_page(
        folder / PAGE,
        f"{failures.session.detector.checkpoint.source} on {failures.split}",
        _summary(failures),
        list(sections_of(failures, advice, steadiness, examples)),
        style=STYLE,
        data={
            "names": [escape_controls(str(name)) for name in failures.session.classes.names],
            "categories": [[id_, escape_controls(name)] for id_, name in zip(ids, names, strict=True)],
            "colors": viewer.COLORS,
            "split": failures.split,
            "images": rows,
            "tiles": tiles_of(failures, {surveyed.image_id: i for i, surveyed in enumerate(images)}),
            "reasons": {"missed": MISSED, "false_positive": FALSE_ALARMS, **{kind: {} for kind in SUSPECT_KINDS}},
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


def _summary(failures: Failures) -> str:
    objects, images = failures.outcomes.objects, len(failures.truth.images)
    part = "" if failures.survey.complete else " (a part of the split)"
    return (
        f"{images:,} images{part} with {objects:,} objects. Detections are predictions with a score of at least "
        f"{failures.outcomes.threshold:.2f}. An object is detected if a detection has its class and an IoU of at least "
        "0.5."
    )
