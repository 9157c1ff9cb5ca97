"""The sections of a report: each a heading, what it says in words, and a chart or a table."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape as escape_html
from pathlib import Path

import numpy as np

from detrcli.evaluation.curves import SCORES
from detrcli.evaluation.metrics import RECALLS
from detrcli.evaluation.outcomes import ERROR_KINDS, FALSE_ALARMS, MISSED
from detrcli.inspection.failures import Failures
from detrcli.render import charts
from detrcli.render.page import Section, escaped, measured
from detrcli.render.usage_figure import usage_figure
from detrcli.render.viewer import STYLE as VIEWER_STYLE
from detrcli.system.text import escape_controls

STYLE = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
CONFUSED = 24  # classes in the confusion matrix


@dataclass(frozen=True)
class Advice:
    """What is probably wrong, what shows it, and what to do."""

    finding: str
    evidence: str
    remedy: str


@dataclass(frozen=True)
class Steadiness:
    """How many objects of a training's pictures got another query from one evaluation to the next."""

    epochs: Sequence[int]
    shares: np.ndarray  # (E, L)


def sections_of(
    failures: Failures,
    advice: Sequence[Advice] | None,
    steadiness: Steadiness | None,
    examples: Mapping[int, int] | None,
) -> Iterator[Section]:
    yield Section("", widget=f"<style>{charts.STYLE}{VIEWER_STYLE}{STYLE}</style>{_cards(failures)}")
    if advice is not None:
        items = "".join(
            f"<li><b>{escaped(one.finding)}</b> {escaped(one.evidence)}<br>{escaped(one.remedy)}</li>" for one in advice
        )
        yield Section(
            "What is probably wrong",
            "Most likely first." if advice else "Nothing stands out in data, settings and curves.",
            widget=f'<ol class="advice">{items}</ol>' if advice else "",
        )
    outcomes = failures.outcomes
    found = {"found": outcomes.found} | {MISSED[kind]: n for kind, n in outcomes.missed_by_kind.items()}
    alarms = {"right": outcomes.found} | {FALSE_ALARMS[kind]: n for kind, n in outcomes.false_alarms_by_kind.items()}
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
        "How much AP50 would gain if all errors of a kind were fixed (TIDE). Detections of every score count.",
        columns=("error", "what it is", "count", "AP50 without it"),
        rows=[
            (one.kind, ERROR_KINDS[one.kind][1], f"{one.count:,}", f"+{one.cost:.3f}")
            for one in sorted(failures.errors, key=lambda one: -one.cost)
        ],
    )
    yield _gallery("missed", "Missed objects", "The yellow box is the object, the orange one what came closest.")
    yield _gallery("alarm", "False alarms", "Detections that find no object of their own.")
    yield from (
        _gallery(kind, title, text, fix=True)
        for kind, title, text in (
            ("wrong_label", "Probably wrong labels", "Another class is predicted where these objects are."),
            ("missing_label", "Probably missing labels", "An object is predicted where none is annotated."),
            ("loose_box", "Probably loose boxes", "The box that is predicted for these objects is another one."),
            ("duplicate", "Annotated twice", "Two annotations of a class in the same place."),
            (
                "poor_mask",
                "Poor masks",
                "Found, with another mask than the annotated one: yellow as annotated, orange as predicted.",
            ),
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
    yield Section("All pictures", "Those with most errors first.", widget='<div class="tiles" id="all"></div>')
    yield Section("", widget=_VIEWER)


def _cards(failures: Failures) -> str:
    metrics, outcomes = failures.metrics, failures.outcomes
    between = "" if failures.interval is None else f"95 % interval {metrics['AP_low']:.3f} to {metrics['AP_high']:.3f}"
    cards = (
        (measured(metrics["AP"]), "AP", between),
        (measured(metrics["AP50"]), "AP50", ""),
        (measured(metrics["AR100"]), "AR", ""),
        *_mask_card(failures),
        (f"{outcomes.found:,}", "found", f"of {outcomes.objects:,} objects"),
        (f"{outcomes.objects - outcomes.found:,}", "missed", ""),
        (f"{outcomes.false_alarms:,}", "false alarms", ""),
    )
    return '<div class="cards">' + "".join(
        f"<div><b>{value}</b><span>{name}</span><small>{more}</small></div>" for value, name, more in cards
    ) + "</div>"  # fmt: skip


def _mask_card(failures: Failures) -> Iterator[tuple[str, str, str]]:
    if (masks := failures.masks) is not None:
        boundaries = f"boundary AP {measured(masks.boundaries.metrics['AP'])}"
        yield measured(masks.scores.metrics["AP"]), "mask AP", boundaries
        yield measured(masks.mean_iou), "mask IoU", "mean of found objects"
    if (quality := failures.panoptic) is not None:
        parts = f"things {measured(quality.things.PQ)}, stuff {measured(quality.stuff.PQ)}"
        yield measured(quality.all.PQ), "PQ", parts


def _gallery(kind: str, title: str, text: str, *, fix: bool = False) -> Section:
    marks = ' data-fix="yes"' if fix else ""
    return Section(title, text, widget=f'<div class="gallery" data-kind="{kind}"{marks}></div>')


def _curves(failures: Failures, examples: Mapping[int, int] | None) -> Iterator[str]:
    curves, classes = failures.curves, failures.truth.classes
    names = [str(name) for name in classes.names]
    per_class = {one.category_id: one for one in failures.scores.per_class}
    there = [k for k in range(len(names)) if np.isfinite(curves.precision[k]).all()]
    shown = sorted(there, key=lambda k: -per_class[int(classes.ids[k])].targets)[:6]

    def figure(caption: str, drawn: str) -> str:
        return f"<figure><figcaption>{escaped(caption)}</figcaption>{drawn}</figure>"

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
    sizes = [(name, failures.metrics[key]) for name, key in (("small", "APs"), ("medium", "APm"), ("large", "APl"))]
    rows = "".join(
        f"<tr><td>{name}</td><td class=number>{measured(value)}</td>"
        f"<td><meter value={max(0, value):.3f}></meter></td></tr>"
        for name, value in sizes
    )
    yield figure("AP by size of the objects (32 and 96 pixels)", f"<table>{rows}</table>")
    counts = examples or {id_: one.targets for id_, one in per_class.items()}
    scored = {one.label: (max(1, counts.get(id_, 0)), one.AP) for id_, one in per_class.items() if one.AP >= 0}
    if scored:
        numbers = [count for count, _ in scored.values()]
        wide = max(numbers) > 20 * min(numbers)
        dots = {name: [(float(np.log10(count)) if wide else float(count), ap)] for name, (count, ap) in scored.items()}
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
    names = [escape_controls(str(classes.names[k])) for k in kept]
    part = confused[np.ix_([*kept, K], [*kept, K])]
    most = np.maximum(part.sum(1, keepdims=True), 1)
    head = "".join(f"<th><span>{escape_html(name)}</span></th>" for name in (*names, "missed"))
    body = []
    for i, name in enumerate((*names, "no object")):
        cells = "".join(
            f'<td style="--share: {part[i, j] / most[i, 0]:.2f}">{part[i, j] or ""}</td>' for j in range(len(part))
        )
        body.append(f"<tr><th>{escape_html(name)}</th>{cells}</tr>")
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
    objects, found, alarms = outcomes.per_image
    pairs, counts = np.unique(np.stack([objects, found + alarms], 1), axis=0, return_counts=True)
    named = {
        f"{a} objects, {b} detections in {count} pictures:": (float(a), float(b), count)
        for (a, b), count in zip(pairs.tolist(), counts.tolist(), strict=True)
    }
    drawn = charts.lines(
        {name: [(a, b)] for name, (a, b, _) in named.items()},
        "objects in a picture", "detections", y=None, dots=True, legend=False,
        radius={name: 2 + 8 * (count / counts.max()) ** 0.5 for name, (*_, count) in named.items()},
        promise=[(0, 0), (float(objects.max()), float(objects.max()))],
    )  # fmt: skip
    figures = [f"<figure><figcaption>Objects against detections, picture by picture</figcaption>{drawn}</figure>"]
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
        f"{'; '.join(usage.summary)}.",
        widget=f'<div class="charts">{"".join(figures)}</div>',
        pictures=[(usage_figure(usage, failures.session.picture), "A tile for each query: where its boxes lie")],
    )


_VIEWER = """
<dialog id="dialog" aria-label="a picture looked into">
<div class="bar"><button id="close">close <kbd>Esc</kbd></button> <button id="back">before <kbd>&larr;</kbd></button>
<button id="on">next <kbd>&rarr;</kbd></button> <span id="which"></span></div><div id="viewer"></div></dialog>
"""
