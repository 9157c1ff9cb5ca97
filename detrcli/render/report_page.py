"""The page of `detr report`: what was found, missed and invented, why, and which annotations to mend.

A folder that needs nothing but itself: `index.html`, the pictures, and for each image a file that the viewer loads
when it is opened.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from detrcli.errors import DataError
from detrcli.evaluation.curves import RECALLS, SCORES
from detrcli.evaluation.errors import KINDS as ERRORS
from detrcli.evaluation.outcomes import FALSE_ALARMS, MISSED
from detrcli.evaluation.pairing import NONE
from detrcli.inspection.explained import explain_group
from detrcli.inspection.failures import Failures
from detrcli.inspection.look import record_picture
from detrcli.inspection.survey import SurveyedImage
from detrcli.inspection.suspects import KINDS as SUSPECTS
from detrcli.inspection.suspects import Suspect, corners
from detrcli.render import charts
from detrcli.render.page import Section, write_page
from detrcli.render.usage_figure import usage_figure
from detrcli.render.viewer import COLOURS, inside_of, shrunk
from detrcli.render.viewer import SCRIPT as VIEWER
from detrcli.render.viewer import STYLE as VIEWER_STYLE
from detrcli.render.views import place_of_objects, view_of_failures
from detrcli.system.files import write_whole
from detrcli.system.text import visible

SCRIPT = Path(__file__).with_name("report.js").read_text(encoding="utf-8")
STYLE = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
PAGE, PICTURES, PIECES = "index.html", "pictures", "pieces"
IMAGES = 1000  # that the page shows, unless told otherwise
LOOKED_INTO = 60  # of them, with attention and costs
QUERIES = 12  # of an image, whose attention is kept
CONFUSED = 24  # classes in the confusion matrix


@dataclass(frozen=True)
class Steadiness:
    """How many objects of a training's pictures got another query from one evaluation to the next."""

    epochs: Sequence[int]
    shares: np.ndarray  # (E, L)


def write_report(
    folder: Path,
    failures: Failures,
    *,
    findings: Sequence[Mapping[str, str]] = (),
    steadiness: Steadiness | None = None,
    examples: Mapping[int, int] | None = None,
    most: int = IMAGES,
    seconds: float | None = None,
) -> Path:
    """Write the page into a new folder; give its file.

    `findings` are what is probably wrong, most likely first; `examples` how many objects of each category the model
    was trained on. At most `most` images are shown, the worst first, and attention is kept as far as `seconds` allow.
    """
    ends = None if seconds is None else time.monotonic() + seconds
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    (folder / PIECES).mkdir(exist_ok=True)
    images = worst_first(failures)[:most]
    shown = {one.image_id: i for i, one in enumerate(images)}
    urls = []
    for i, one in enumerate(images):
        image = failures.session.picture(one.place)
        small = max(image.size) <= 400
        url = f"{PICTURES}/{i}.{'png' if small else 'jpg'}"
        shrunk(image).save(folder / url, quality=85)
        urls.append(url)
        piece = view_of_failures(failures, one).piece(url)
        deep = i < LOOKED_INTO and (ends is None or time.monotonic() < ends)
        if deep:
            _write_piece(folder / PIECES / f"{i}-inside.js", f"inside:{i}", _inside(failures, one))
        _write_piece(folder / PIECES / f"{i}.js", f"piece:{i}", {**piece, "deep": deep})
    write_page(
        folder / PAGE,
        f"{failures.session.detector.weights.source} on {failures.split}",
        _summary(failures),
        list(_sections(failures, findings, steadiness, examples)),
        data={
            "names": [visible(str(name)) for name in failures.session.classes.names],
            "categories": [
                [int(id_), visible(str(name))]
                for id_, name in zip(failures.truth.classes.ids, failures.truth.classes.names, strict=True)
            ],
            "colours": COLOURS,
            "split": failures.split,
            "images": [
                [one.image_id, visible(failures.file(one.image_id)), *reversed(failures.session.size(one.place)),
                 url, *_counts(failures, one)]
                for one, url in zip(images, urls, strict=True)
            ],
            "tiles": _tiles(failures, shown),
            "reasons": {"missed": MISSED, "alarm": FALSE_ALARMS, **{kind: {} for kind in SUSPECTS}},
        },
        script=VIEWER + SCRIPT,
    )  # fmt: skip
    document = json.dumps(failures.document(), indent=2, allow_nan=False)
    write_whole(folder / "report.json", (document + "\n").encode())
    return folder / PAGE


def _write_piece(path: Path, name: str, values: Mapping[str, Any]) -> None:
    """A script that hands the page what it asks for: pages opened from disk may load no other file."""
    text = json.dumps(values, ensure_ascii=True, allow_nan=False)
    path.write_text(f"arrived({json.dumps(name)}, {text});\n", encoding="ascii")


def _counts(failures: Failures, image: SurveyedImage) -> tuple[int, int, int]:
    """Objects, missed ones, and false alarms of an image."""
    outcomes, truth = failures.outcomes, failures.truth
    objects = (truth.of_image == image.image_id) & ~truth.crowd
    missed = (outcomes.missed != "") & objects
    alarms = (outcomes.wrong != "") & (failures.results.image_ids == image.image_id)
    return int(objects.sum()), int(missed.sum()), int(alarms.sum())


def worst_first(failures: Failures) -> list[SurveyedImage]:
    """By how suspicious their annotations are and how much went wrong in them, in turn."""
    wrong = {one.image_id: sum(_counts(failures, one)[1:]) for one in failures.survey.images}
    suspicion: dict[int, float] = {}
    for members in failures.suspects.values():
        for one in members:
            suspicion[one.image_id] = max(suspicion.get(one.image_id, 0), one.suspicion)
    by_id = {one.image_id: one for one in failures.survey.images}
    orders = (
        sorted(by_id, key=lambda image: -wrong[image]),
        sorted(by_id, key=lambda image: -suspicion.get(image, 0)),
    )
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


def _tiles(failures: Failures, shown: Mapping[int, int]) -> dict[str, list[dict[str, Any]]]:
    """What each gallery shows, of images that are in the page; boxes as x0, y0, x1, y1 in pixels."""
    outcomes, truth, results = failures.outcomes, failures.truth, failures.results
    place_of = {
        image.image_id: place_of_objects(failures, image)
        for image in failures.survey.images
        if image.image_id in shown
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


def _summary(failures: Failures) -> str:
    objects, images = failures.outcomes.objects, len(failures.truth.images)
    part = "" if failures.survey.complete else " (as many as there was time for)"
    return (
        f"{images:,} pictures{part} with {objects:,} objects. A detection is what scores at least "
        f"{failures.outcomes.threshold:.2f}; objects are found where their class is detected with an IoU of 0.5."
    )


def _sections(
    failures: Failures,
    findings: Sequence[Mapping[str, str]],
    steadiness: Steadiness | None,
    examples: Mapping[int, int] | None,
) -> Iterator[Section]:
    yield Section("", widget=f"<style>{charts.STYLE}{VIEWER_STYLE}{STYLE}</style>{_cards(failures)}")
    if findings:
        items = "".join(
            f"<li><b>{_text(one['finding'])}</b> {_text(one['evidence'])} <i>{_text(one['remedy'])}</i></li>"
            for one in findings
        )
        yield Section("What is probably wrong", widget=f"<ol>{items}</ol>")
    outcomes = failures.outcomes
    found = {"found": outcomes.found} | {MISSED[kind]: n for kind, n in outcomes.missed_by_kind.items()}
    detections = int(((outcomes.on != NONE) & (outcomes.wrong == "")).sum())
    alarms = {"right": detections} | {
        FALSE_ALARMS[kind]: n for kind, n in outcomes.false_alarms_by_kind.items()
    }
    yield Section(
        "Objects and detections",
        widget=(
            '<div class="charts">'
            f"<figure><figcaption>What became of {outcomes.objects:,} objects</figcaption>"
            f"{charts.parts(found)}</figure>"
            f"<figure><figcaption>What {sum(alarms.values()):,} detections are</figcaption>"
            f"{charts.parts(alarms)}</figure></div>"
        ),
    )
    yield Section(
        "What each kind of error costs",
        "How much AP50 would gain if all errors of a kind were mended (TIDE). Detections of every score count.",
        columns=("error", "what it is", "count", "AP50 without it"),
        rows=[
            (one.kind, ERRORS[one.kind][1], one.count, f"+{one.cost:.3f}")
            for one in sorted(failures.errors, key=lambda one: -one.cost)
        ],
    )
    yield _gallery(
        "missed", "Missed objects", "The yellow box is the object, the orange one what came closest."
    )
    yield _gallery("alarm", "False alarms", "Detections that find no object of their own.")
    yield from (
        _gallery(kind, title, text, mend=True)
        for kind, title, text in (
            ("wrong_label", "Probably wrong labels", "Another class is predicted where these objects are."),
            ("missing_label", "Probably missing labels", "An object is predicted where none is annotated."),
            (
                "loose_box",
                "Probably loose boxes",
                "The box that is predicted for these objects is another one.",
            ),
            ("duplicate", "Annotated twice", "Two annotations of a class in the same place."),
        )
        if failures.suspects[kind]
    )
    yield Section("Curves", widget=f'<div class="charts">{"".join(_curves(failures, examples))}</div>')
    yield Section(
        "Classes taken for each other",
        "Objects by their class, down, and what was detected there, across.",
        widget=_confusion(failures),
    )
    yield from _of_the_transformer(failures, steadiness)
    yield Section(
        "All pictures", "Those with most errors first.", widget='<div class="tiles" id="all"></div>'
    )
    yield Section("", widget=_VIEWER)


def _cards(failures: Failures) -> str:
    metrics, outcomes = failures.metrics, failures.outcomes
    between = (
        ""
        if failures.interval is None
        else f"95 % interval {metrics['AP_low']:.3f} to {metrics['AP_high']:.3f}"
    )
    alarms = sum(outcomes.false_alarms_by_kind.values())
    cards = (
        (_number(metrics["AP"]), "AP", between),
        (_number(metrics["AP50"]), "AP50", ""),
        (_number(metrics["AR100"]), "AR", ""),
        (f"{outcomes.found:,}", "found", f"of {outcomes.objects:,} objects"),
        (f"{outcomes.objects - outcomes.found:,}", "missed", ""),
        (f"{alarms:,}", "false alarms", ""),
    )
    return '<div class="cards">' + "".join(
        f"<div><b>{value}</b><span>{name}</span><small>{more}</small></div>" for value, name, more in cards
    ) + "</div>"  # fmt: skip


def _number(value: float) -> str:
    return "none" if value == -1 else f"{value:.3f}"


def _gallery(kind: str, title: str, text: str, *, mend: bool = False) -> Section:
    marks = ' data-mend="yes"' if mend else ""
    return Section(title, text, widget=f'<div class="gallery" data-kind="{kind}"{marks}></div>')


def _curves(failures: Failures, examples: Mapping[int, int] | None) -> Iterator[str]:
    curves, classes = failures.curves, failures.truth.classes
    names = [str(name) for name in classes.names]
    per_class = {one.category_id: one for one in failures.scores.per_class}
    there = [k for k in range(len(names)) if np.isfinite(curves.precision[k]).all()]
    shown = sorted(there, key=lambda k: -per_class[int(classes.ids[k])].targets)[:6]

    def figure(caption: str, drawn: str) -> str:
        return f"<figure><figcaption>{_text(caption)}</figcaption>{drawn}</figure>"

    def curve(values: np.ndarray, at: np.ndarray) -> list[tuple[float, float]]:
        return list(zip(at.tolist(), values.tolist(), strict=True))

    if there:
        mean = {"mean of classes": curve(np.mean(curves.precision[there], axis=0), RECALLS)}
        yield figure(
            "Precision against recall, IoU 0.5",
            charts.lines(
                mean | {names[k]: curve(curves.precision[k], RECALLS) for k in shown}, "recall", "precision",
                x=(0, 1),
            ),
        )  # fmt: skip
        best = failures.thresholds.overall
        yield figure(
            f"F1 against the score that detections reach: best {best.f1:.3f} from {best.threshold:.2f} on "
            "(thresholds.json has it by class, for detr predict --threshold)",
            charts.lines(
                {"all classes": curve(curves.f1, SCORES)}
                | {names[k]: curve(curves.f1_by_class[k], SCORES) for k in shown},
                "score", "F1", x=(0, 1),
            ),
        )  # fmt: skip
    if curves.calibration:
        yield figure(
            f"What a score promises and what comes true: {curves.calibration_error:.3f} apart on average",
            charts.lines(
                {"detections": [(one.score, one.right) for one in curves.calibration]},
                "score", "share that finds an object", x=(0, 1), promise=[(0, 0), (1, 1)],
            ),
        )  # fmt: skip
    sizes = [
        (name, failures.metrics[key]) for name, key in (("small", "APs"), ("medium", "APm"), ("large", "APl"))
    ]
    rows = "".join(
        f"<tr><td>{name}</td><td class=number>{_number(value)}</td>"
        f"<td><meter value={max(0, value):.3f}></meter></td></tr>"
        for name, value in sizes
    )
    yield figure("AP by size of the objects (32 and 96 pixels)", f"<table>{rows}</table>")
    counts = examples or {id_: one.targets for id_, one in per_class.items()}
    measured = {
        one.label: (max(1, counts.get(id_, 0)), one.AP) for id_, one in per_class.items() if one.AP >= 0
    }
    if measured:
        numbers = [count for count, _ in measured.values()]
        wide = max(numbers) > 20 * min(numbers)
        dots = {
            name: [(float(np.log10(count)) if wide else float(count), ap)]
            for name, (count, ap) in measured.items()
        }
        where = "in training" if examples else f"in {failures.split}"
        yield figure(
            f"AP by class against its number of objects {where}",
            charts.lines(
                dots, "objects, as a power of ten" if wide else "objects", "AP", dots=True,
                legend=len(dots) <= 12,
            ),
        )  # fmt: skip


def _confusion(failures: Failures) -> str:
    confused, classes = failures.curves.confused, failures.truth.classes
    K = len(classes)
    off = confused[:K, :K].sum(1) + confused[:K, :K].sum(0) - 2 * confused[range(K), range(K)]
    kept = sorted(np.argsort(-off, kind="stable")[:CONFUSED].tolist())
    names = [visible(str(classes.names[k])) for k in kept]
    part = confused[np.ix_([*kept, K], [*kept, K])]
    most = np.maximum(part.sum(1, keepdims=True), 1)
    head = "".join(f"<th><span>{escape(name)}</span></th>" for name in (*names, "missed"))
    body = []
    for i, name in enumerate((*names, "no object")):
        cells = "".join(
            f'<td style="--share: {part[i, j] / most[i, 0]:.2f}">{part[i, j] or ""}</td>'
            for j in range(len(part))
        )
        body.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    note = f"<p>The {CONFUSED} classes that are confused most, of {K}.</p>" if K > CONFUSED else ""
    return f'{note}<div class="wide"><table class="confusion"><tr><th></th>{head}</tr>{"".join(body)}</table></div>'


def _of_the_transformer(failures: Failures, steadiness: Steadiness | None) -> Iterator[Section]:
    """What only a detection transformer tells."""
    if failures.survey.usage is None:
        return
    yield Section(
        "Layer by layer",
        "How well each decoder layer detects, how many duplicates it leaves, and AP after non-maximum suppression: "
        "where that changes nothing, the queries keep apart by themselves.",
        columns=("layer", "AP", "AP50", "duplicates", "AP suppressed"),
        rows=[(one.layer, one.AP, one.AP50, one.duplicates, one.AP_suppressed) for one in failures.layers],
    )
    usage, outcomes = failures.survey.usage, failures.outcomes
    sure = np.bincount(
        np.searchsorted(
            failures.truth.image_ids,
            failures.results.image_ids[
                (failures.results.scores >= outcomes.threshold)
                & np.isin(failures.results.image_ids, failures.truth.image_ids)
            ],
        ),
        minlength=len(failures.truth.images),
    )
    objects = np.bincount(
        np.searchsorted(failures.truth.image_ids, failures.truth.of_image[~failures.truth.crowd]),
        minlength=len(failures.truth.images),
    )
    pairs, counts = np.unique(np.stack([objects, sure], 1), axis=0, return_counts=True)
    drawn = charts.lines(
        {
            f"{count} pictures": [(float(a), float(b))]
            for (a, b), count in zip(pairs.tolist(), counts.tolist(), strict=True)
        },
        "objects in a picture", "detections", y=None, dots=True, legend=False,
        radius={f"{count} pictures": 2 + 8 * (count / counts.max()) ** 0.5 for count in counts.tolist()},
        promise=[(0, 0), (float(objects.max()), float(objects.max()))],
    )  # fmt: skip
    figures = [
        f"<figure><figcaption>Objects against detections, picture by picture</figcaption>{drawn}</figure>"
    ]
    if steadiness is not None and len(steadiness.epochs):
        series = {
            f"layer {layer}": list(zip(map(float, steadiness.epochs), shares, strict=True))
            for layer, shares in enumerate(steadiness.shares.T.tolist())
        }
        figures.append(
            "<figure><figcaption>Objects that got another query since the evaluation before</figcaption>"
            f"{charts.lines(series, 'epoch', 'share of the objects')}</figure>"
        )
    yield Section(
        "Queries",
        f"{usage.summary}.",
        widget=f'<div class="charts">{"".join(figures)}</div>',
        pictures=[
            (usage_figure(usage, failures.session.picture), "A tile for each query: where its boxes lie")
        ],
    )


_VIEWER = """
<dialog id="dialog" aria-label="a picture looked into">
<div class="bar"><button id="close">close <kbd>Esc</kbd></button> <button id="back">before <kbd>&larr;</kbd></button>
<button id="on">next <kbd>&rarr;</kbd></button> <span id="which"></span></div><div id="viewer"></div></dialog>
"""


def _text(text: str) -> str:
    return escape(visible(text))
