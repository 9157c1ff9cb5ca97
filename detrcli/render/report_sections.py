"""The sections of a report: headings, texts, charts, tables and galleries."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from detrcli.evaluation.curves import SCORES
from detrcli.evaluation.metrics import RECALLS
from detrcli.evaluation.outcomes import ERROR_KINDS, FALSE_POSITIVES, MISSED
from detrcli.inspection.failures import Failures
from detrcli.render.charts import bar_chart, figure, line_chart
from detrcli.render.matching_figures import usage_figure
from detrcli.render.page import Section, escaped, measured
from detrcli.render.plot import Point

CONFUSED_CLASSES = 24  # at most, in the confusion matrix
CURVE_CLASSES = 6  # with a curve of their own in the charts
Advice = tuple[str, str, str]  # a likely problem of the data or the training, its evidence, and a remedy
# Epochs of E evaluations, and the shares (E, L) of objects with another query than at the previous evaluation.
Instability = tuple[Sequence[int], np.ndarray]

GALLERIES = {
    "missed": ("Missed objects", "Yellow: the object. Orange: the closest prediction, if any."),
    "false_positive": ("False positives", "Orange: the detection. Yellow: the object that it overlaps."),
    "wrong_label": ("Likely wrong labels", "Another class is predicted for these objects."),
    "missing_label": ("Likely missing labels", "Objects are predicted where none is annotated."),
    "loose_box": ("Likely loose boxes", "Yellow: the annotated box. Orange: the predicted box."),
    "duplicate": ("Duplicate annotations", "Two annotations of a class in the same place."),
    "poor_mask": ("Poor masks", "Detected objects. Yellow: the annotated mask. Orange: the predicted mask."),
}


def sections_of(
    failures: Failures,
    advice: Sequence[Advice] | None,
    instability: Instability | None,
    examples: Mapping[int, int] | None,
) -> Iterator[Section]:
    """Yield the sections of a report; see `write_report` for the arguments."""
    yield Section("", html=_cards(failures))
    if advice is not None:
        items = "".join(
            f"<li><b>{escaped(finding)}</b> {escaped(evidence)}<br>{escaped(remedy)}</li>"
            for finding, evidence, remedy in advice
        )
        text = "Most likely first." if advice else "No problem was found in the data, the settings and the curves."
        yield Section("What is probably wrong", text, html=f'<ol class="advice">{items}</ol>' if advice else "")
    outcomes = failures.outcomes
    missed, wrong = outcomes.missed_by_kind, outcomes.false_positives_by_kind
    objects = {"detected": outcomes.found} | {f"missed: {MISSED[kind]}": missed[kind] for kind in missed}
    detections = {"true positive": outcomes.found} | {FALSE_POSITIVES[kind]: wrong[kind] for kind in wrong}
    yield Section(
        "Objects and detections",
        html=_charts(
            bar_chart(f"{outcomes.objects:,} objects", objects),
            bar_chart(f"{sum(detections.values()):,} detections", detections),
        ),
    )
    yield Section(
        "Error types",
        "The gain in AP50 if all errors of a type were corrected (TIDE), over detections of every score.",
        columns=("error", "count", "gain in AP50"),
        rows=[
            (ERROR_KINDS[error.kind][1], f"{error.count:,}", f"+{error.cost:.3f}")
            for error in sorted(failures.errors, key=lambda error: -error.cost)
        ],
    )
    for kind, (title, text) in GALLERIES.items():
        fix = ' data-fix="yes"' if kind in failures.suspects else ""
        if not fix or failures.suspects[kind]:
            yield Section(title, text, html=f'<div class="gallery" data-kind="{kind}"{fix}></div>')
    yield Section("Curves", html=_charts(*_curves(failures, examples)))
    yield Section(
        "Confusion matrix", "Rows: the class of objects. Columns: the class detected there.", html=_confusion(failures)
    )
    if failures.survey.usage is not None:
        yield Section(
            "Decoder layers",
            "AP of each layer, its duplicates, and AP after non-maximum suppression. Where suppression changes "
            "nothing, the queries do not duplicate each other.",
            columns=("layer", "AP", "AP50", "duplicates", "AP after NMS"),
            rows=[tuple(layer.values()) for layer in failures.layers],
        )
        atlas = usage_figure(failures.survey.usage, failures.session.image)
        yield Section(
            "Queries",
            f"{'; '.join(failures.survey.usage.summary)}.",
            html=_charts(*_query_charts(failures, instability)),
            figures=[(atlas, "A tile for each query: the centers of its boxes")],
        )
    yield Section(
        "All images",
        "In turn, an image with many errors and an image with suspicious annotations.",
        html='<div class="tiles" id="all"></div>',
    )
    yield Section("", html=_DIALOG)


def _cards(failures: Failures) -> str:
    """Return the numbers at the top of the page, as HTML."""
    metrics, outcomes, masks, panoptic = failures.metrics, failures.outcomes, failures.masks, failures.panoptic
    interval = "" if failures.interval is None else f"95% interval {metrics['AP_low']:.3f} to {metrics['AP_high']:.3f}"
    cards = [
        (measured(metrics["AP"]), "AP", interval),
        (measured(metrics["AP50"]), "AP50", ""),
        (measured(metrics["AR100"]), "AR", ""),
    ]
    if masks is not None:
        boundary_ap = f"boundary AP {measured(masks.boundaries.metrics['AP'])}"
        cards.append((measured(masks.scores.metrics["AP"]), "mask AP", boundary_ap))
        cards.append((measured(masks.mean_iou), "mask IoU", "mean of detected objects"))
    if panoptic is not None:
        parts = f"things {measured(panoptic.things.PQ)}, stuff {measured(panoptic.stuff.PQ)}"
        cards.append((measured(panoptic.all.PQ), "PQ", parts))
    cards += [
        (f"{outcomes.found:,}", "detected", f"of {outcomes.objects:,} objects"),
        (f"{outcomes.objects - outcomes.found:,}", "missed", ""),
        (f"{outcomes.false_positives:,}", "false positives", ""),
    ]
    parts = "".join(f"<div><b>{value}</b><span>{name}</span><small>{more}</small></div>" for value, name, more in cards)
    return f'<div class="cards">{parts}</div>'


def _charts(*figures: str) -> str:
    return f'<div class="charts">{"".join(figures)}</div>'


def _points(x: np.ndarray, y: np.ndarray) -> list[Point]:
    return list(zip(x.tolist(), y.tolist(), strict=True))


def _curves(failures: Failures, examples: Mapping[int, int] | None) -> Iterator[str]:
    curves, classes = failures.curves, failures.truth.classes
    names = [str(name) for name in classes.names]
    per_class = {scores.category_id: scores for scores in failures.scores.per_class}
    known = [k for k in range(len(names)) if np.isfinite(curves.precision[k]).all()]
    shown = sorted(known, key=lambda k: -per_class[int(classes.ids[k])].targets)[:CURVE_CLASSES]
    if known:
        precision = {"mean of classes": _points(RECALLS, np.mean(curves.precision[known], axis=0))}
        precision |= {names[k]: _points(RECALLS, curves.precision[k]) for k in shown}
        yield line_chart("Precision against recall, IoU 0.5", precision, "recall", "precision", x_range=(0, 1))
        f1 = {"all classes": _points(SCORES, curves.f1)}
        f1 |= {names[k]: _points(SCORES, curves.f1_by_class[k]) for k in shown}
        best = failures.thresholds.overall
        caption = f"F1 against the score threshold: best {best.f1:.3f} at {best.threshold:.2f}"
        yield line_chart(f"{caption} (by class: thresholds.json)", f1, "score threshold", "F1", x_range=(0, 1))
    if curves.calibration:
        bins = {"detections": [(score, share) for score, share, _ in curves.calibration]}
        caption = f"Calibration of scores: expected calibration error {curves.calibration_error:.3f}"
        diagonal = [(0.0, 0.0), (1.0, 1.0)]
        yield line_chart(caption, bins, "score", "true positives, share", x_range=(0, 1), reference=diagonal)
    rows = ""
    for name in ("small", "medium", "large"):
        ap = failures.metrics[f"AP{name[0]}"]
        meter = f"<meter value={max(0, ap):.3f}></meter>"
        rows += f"<tr><td>{name}</td><td class=number>{measured(ap)}</td><td>{meter}</td></tr>"
    yield figure("AP by object size, with limits at 32 x 32 and 96 x 96 pixels", f"<table>{rows}</table>")
    counts = examples or {id_: scores.targets for id_, scores in per_class.items()}
    scored = {
        scores.label: (max(1, counts.get(id_, 0)), scores.AP) for id_, scores in per_class.items() if scores.AP >= 0
    }
    if scored:
        numbers = [count for count, _ in scored.values()]
        log = max(numbers) > 20 * min(numbers)
        dots = {name: [(float(np.log10(count)) if log else float(count), ap)] for name, (count, ap) in scored.items()}
        x_label = "objects, power of ten" if log else "objects"
        where = "in training" if examples else f"in {failures.split}"
        caption = f"AP of each class against its number of objects {where}"
        yield line_chart(caption, dots, x_label, "AP", dots=True, legend=len(dots) <= 12)


def _confusion(failures: Failures) -> str:
    confusion, classes = failures.curves.confused, failures.truth.classes  # (K + 1, K + 1), background last
    K = len(classes)
    errors = confusion[:K, :K].sum(1) + confusion[:K, :K].sum(0) - 2 * confusion[range(K), range(K)]  # (K,)
    shown = sorted(np.argsort(-errors, kind="stable")[:CONFUSED_CLASSES].tolist())
    names = [escaped(str(classes.names[k])) for k in shown]
    counts = confusion[np.ix_([*shown, K], [*shown, K])]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    head = "".join(f"<th><span>{name}</span></th>" for name in (*names, "missed"))
    rows = ""
    for name, row, row_shares in zip((*names, "background"), counts.tolist(), shares.tolist(), strict=True):
        cells = (f'<td style="--share: {share:.2f}">{n or ""}</td>' for n, share in zip(row, row_shares, strict=True))
        rows += f"<tr><th>{name}</th>{''.join(cells)}</tr>"
    note = f"<p>The {CONFUSED_CLASSES} classes with the most confusions, of {K}.</p>" if K > CONFUSED_CLASSES else ""
    return f'{note}<div class="wide"><table class="confusion"><tr><th></th>{head}</tr>{rows}</table></div>'


def _query_charts(failures: Failures, instability: Instability | None) -> Iterator[str]:
    objects, detected, false_positives = failures.outcomes.per_image
    pairs, counts = np.unique(np.stack([objects, detected + false_positives], 1), axis=0, return_counts=True)
    dots, radius = {}, {}
    for (x, y), count in zip(pairs.tolist(), counts.tolist(), strict=True):
        name = f"{x} objects, {y} detections in {count} images:"
        dots[name] = [(float(x), float(y))]
        radius[name] = 2 + 8 * (count / counts.max()) ** 0.5
    end = float(objects.max())
    yield line_chart(
        "Objects and detections of each image", dots, "objects in an image", "detections", y_range=None, dots=True,
        legend=False, radius=radius, reference=[(0, 0), (end, end)],
    )  # fmt: skip
    if instability is not None and len(instability[0]):
        epochs, shares = np.array(instability[0], dtype=float), instability[1]
        series = {f"layer {layer}": _points(epochs, of_layer) for layer, of_layer in enumerate(shares.T)}
        caption = "Objects with another query than at the previous evaluation"
        yield line_chart(caption, series, "epoch", "share of the objects")


_DIALOG = """
<dialog id="dialog" aria-label="viewer">
<div class="bar"><button id="close">close <kbd>Esc</kbd></button> <button id="back">previous <kbd>&larr;</kbd></button>
<button id="on">next <kbd>&rarr;</kbd></button> <span id="which"></span></div><div id="viewer"></div></dialog>
"""
