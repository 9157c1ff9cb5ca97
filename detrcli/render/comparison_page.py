"""The page that compares models on a split: metrics, differences, and the images that differ most."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detrcli.evaluation.comparison import Difference
from detrcli.evaluation.metrics import METRICS
from detrcli.inspection.failures import Failures
from detrcli.render.draw import resized
from detrcli.render.page import Cell, Section, data_url, escaped, measured, write_page
from detrcli.render.report_page import PAGE, STYLE

IMAGES_SHOWN = 40
TILE = 240  # pixels of an image's longer side


def write_comparison(
    folder: Path,
    names: Sequence[str],
    failures: Sequence[Failures],
    differences: Sequence[Difference],
    images: Sequence[Sequence[int]],
) -> Path:
    """Write the page, and return its file.

    The reports of the models are in the folders 0, 1, ... beside it. `images` are the ids of the images in each report.
    """
    outcomes = [model.outcomes for model in failures]
    rows: list[Sequence[Cell]] = [
        *((metric, *(measured(model.metrics[metric]) for model in failures)) for metric in METRICS),
        ("detected", *(counts.found for counts in outcomes)),
        ("missed", *(counts.objects - counts.found for counts in outcomes)),
        ("false positives", *(counts.false_positives for counts in outcomes)),
        ("parameters", *(f"{model.session.detector.parameters or 0:,}" for model in failures)),
    ]
    links = "".join(f'<li><a href="{i}/{PAGE}">{escaped(name)}</a></li>' for i, name in enumerate(names))
    metrics = "AP and AR as defined by COCO, by object size with limits at 32 x 32 and 96 x 96 pixels."
    write_page(
        folder / PAGE,
        "Comparison of models",
        " ".join(difference.verdict for difference in differences),
        [
            Section("Metrics", metrics, columns=("", *names), rows=rows),
            Section("Reports", html=f"<ul>{links}</ul>"),
            *(_difference(names[0], difference) for difference in differences),
            *(_images(names, failures, i, images) for i in range(1, len(failures))),
        ],
        style=STYLE,
    )
    return folder / PAGE


def _difference(first: str, difference: Difference) -> Section:
    rows = [
        (name, f"{gain.value:+.3f}", f"{gain.low:+.3f} to {gain.high:+.3f}", "" if gain.covers_zero else "yes")
        for name, gain in difference.gains.items()
    ]
    return Section(
        f"{difference.name} compared with {first}",
        "In each bootstrap sample, both models are evaluated on the same images. If the interval contains 0, the "
        "difference may be due to chance. Of many classes, 5% differ significantly by chance alone.",
        columns=("", "difference", "95% interval", "significant"),
        rows=rows,
    )


def _images(names: Sequence[str], failures: Sequence[Failures], i: int, images: Sequence[Sequence[int]]) -> Section:
    """Return the images in which a model differs most from the first, with links to the reports of both."""
    first, other = failures[0].outcomes.image_scores, failures[i].outcomes.image_scores
    gains = other - first  # (I,)
    order = [n for n in np.argsort(-np.abs(gains), kind="stable").tolist() if gains[n]][:IMAGES_SHOWN]
    tiles = ""
    for n in order:
        image_id = int(failures[0].truth.image_ids[n])
        image = failures[0].session.image(failures[0].images[image_id].index)
        url = data_url(image if max(image.size) <= TILE else resized(image, TILE))
        links = ", ".join(
            f'<a href="{k}/{PAGE}#image={image_id}">{escaped(names[k])}</a> {scores[n]:.2f}'
            for k, scores in ((0, first), (i, other))
            if image_id in images[k]
        )
        file = escaped(failures[0].file(image_id))
        tiles += f'<div class="tile"><img alt="" src="{url}"><p>{file}</p><p>F1: {links}</p></div>'
    return Section(
        f"Images with the largest differences between {names[i]} and {names[0]}",
        "F1 of each image, at the threshold of each model. A name opens the image in the report of that model.",
        html=f'<div class="tiles">{tiles}</div>' if tiles else "<p>None.</p>",
    )
