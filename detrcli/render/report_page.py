"""The page of `detr report`: what was found, missed and invented, why, and which annotations to fix.

A folder that needs nothing but itself: `index.html`, the pictures, and for each image a file that the viewer loads
when it is opened.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detrcli.errors import DataError
from detrcli.evaluation.outcomes import FALSE_ALARMS, MISSED
from detrcli.inspection.explained import explain_group
from detrcli.inspection.failures import Failures
from detrcli.inspection.look import record_picture
from detrcli.inspection.survey import SurveyedImage
from detrcli.inspection.suspects import KINDS as SUSPECTS
from detrcli.render.page import write_page
from detrcli.render.report_sections import Advice, Steadiness, sections_of
from detrcli.render.report_tiles import tiles_of
from detrcli.render.viewer import COLOURS, inside_of, shrunk
from detrcli.render.viewer import SCRIPT as VIEWER
from detrcli.render.views import view_of_failures
from detrcli.system.files import write_whole
from detrcli.system.text import escape_controls

SCRIPT = Path(__file__).with_name("report.js").read_text(encoding="utf-8")
PAGE, PICTURES, PIECES = "index.html", "pictures", "pieces"
IMAGES = 1000  # that the page shows, unless told otherwise
LOOKED_INTO = 60  # of them, with attention and costs
QUERIES = 12  # of an image, whose attention is kept


def write_report(
    folder: Path,
    failures: Failures,
    *,
    advice: Sequence[Advice] | None = None,
    steadiness: Steadiness | None = None,
    examples: Mapping[int, int] | None = None,
    most: int = IMAGES,
    seconds: float | None = None,
) -> Path:
    """Write the page into a new folder; give its file.

    `advice` is what is probably wrong, most likely first, where that was asked. `examples` are how many objects of
    each category the model was trained on. At most `most` images are shown, the worst first, and attention is kept
    as far as `seconds` allow.
    """
    ends = None if seconds is None else time.monotonic() + seconds
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    (folder / PIECES).mkdir(exist_ok=True)
    images = worst_first(failures)[:most]
    shown = {one.image_id: i for i, one in enumerate(images)}
    counts = dict(zip(failures.truth.image_ids.tolist(), failures.outcomes.per_image.T.tolist(), strict=True))
    rows = []
    for i, one in enumerate(images):
        image = failures.session.picture(one.place)
        small = max(image.size) <= 400
        url = f"{PICTURES}/{i}.{'png' if small else 'jpg'}"
        shrunk(image).save(folder / url, quality=85)
        objects, found, alarms = counts[one.image_id]
        height, width = failures.session.size(one.place)
        file = escape_controls(failures.file(one.image_id))
        rows.append([one.image_id, file, width, height, url, objects, objects - found, alarms])
        piece = view_of_failures(failures, one).piece(url)
        deep = i < LOOKED_INTO and (ends is None or time.monotonic() < ends)
        if deep:
            _write_piece(folder / PIECES / f"{i}-inside.js", f"inside:{i}", _inside(failures, one))
        _write_piece(folder / PIECES / f"{i}.js", f"piece:{i}", {**piece, "deep": deep})
    write_page(
        folder / PAGE,
        f"{failures.session.detector.checkpoint.source} on {failures.split}",
        _summary(failures),
        list(sections_of(failures, advice, steadiness, examples)),
        data={
            "names": [escape_controls(str(name)) for name in failures.session.classes.names],
            "categories": [
                [int(id_), escape_controls(str(name))]
                for id_, name in zip(failures.truth.classes.ids, failures.truth.classes.names, strict=True)
            ],
            "colours": COLOURS,
            "split": failures.split,
            "images": rows,
            "tiles": tiles_of(failures, shown),
            "reasons": {"missed": MISSED, "alarm": FALSE_ALARMS, **{kind: {} for kind in SUSPECTS}},
        },
        script=VIEWER + SCRIPT,
    )
    document = json.dumps(failures.document(), indent=2, allow_nan=False)
    write_whole(folder / "report.json", (document + "\n").encode())
    return folder / PAGE


def _write_piece(path: Path, name: str, values: Mapping[str, Any]) -> None:
    """A script that hands the page what it asks for: pages opened from disk may load no other file."""
    text = json.dumps(values, ensure_ascii=True, allow_nan=False)
    path.write_text(f"arrived({json.dumps(name)}, {text});\n", encoding="ascii")


def worst_first(failures: Failures) -> list[SurveyedImage]:
    """By how suspicious their annotations are and how much went wrong in them, in turn."""
    objects, found, alarms = failures.outcomes.per_image
    errors = (objects - found + alarms).tolist()
    wrong = dict(zip(failures.truth.image_ids.tolist(), errors, strict=True))
    suspicion: dict[int, float] = {}
    for members in failures.suspects.values():
        for one in members:
            suspicion[one.image_id] = max(suspicion.get(one.image_id, 0), one.suspicion)
    by_id = {one.image_id: one for one in failures.survey.images}
    orders = (sorted(by_id, key=lambda image: -wrong[image]), sorted(by_id, key=lambda image: -suspicion.get(image, 0)))
    chosen = dict.fromkeys(image for pair in zip(*orders, strict=True) for image in pair)
    return [by_id[image] for image in chosen]


def _inside(failures: Failures, image: SurveyedImage) -> dict[str, Any]:
    """The costs of an image's matching, and where its queries look."""
    session = failures.session
    try:
        record = record_picture(session.detector, session.picture(image.place))
    except DataError:
        return {}
    if image.pairs is None:
        return inside_of(record, [])
    matching = explain_group(record.forward.output.decoder, session.example(image.place).target, session.loss)
    matter = matching.layers[-1].that_matter(failures.outcomes.threshold)
    matched = [pair.query for pair in image.pairs[-1]]
    queries = sorted(matter, key=lambda query: (query not in matched, -image.scores[-1, query]))[:QUERIES]
    matcher = session.loss.matcher
    return inside_of(record, queries, matching.layers, None if matcher is None else matcher.weights)


def _summary(failures: Failures) -> str:
    objects, images = failures.outcomes.objects, len(failures.truth.images)
    part = "" if failures.survey.complete else " (a part of the split)"
    return (
        f"{images:,} pictures{part} with {objects:,} objects. A detection is what scores at least "
        f"{failures.outcomes.threshold:.2f}; objects are found where their class is detected with an IoU of 0.5."
    )
