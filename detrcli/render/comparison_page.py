"""The page of several models side by side: what differs, by how much, and in which pictures."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from detrcli.evaluation.comparison import Difference
from detrcli.evaluation.metrics import METRICS
from detrcli.inspection.failures import Failures
from detrcli.render.page import Cell, Section, as_url, escaped, measured, write_page
from detrcli.render.viewer import shrunk

PAGE = "index.html"
SHOWN = 40  # pictures that differ most
TILE = 240  # pixels of a picture's longer side

STYLE = """
body { max-width: 76rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .8rem; }
.tiles figure { margin: 0; border: 1px solid #8885; border-radius: .4rem; padding: .4rem; overflow-wrap: anywhere; }
.tiles img { width: 100%; aspect-ratio: 1; object-fit: contain; background: #0003; }
"""


def write_comparison(
    folder: Path,
    names: Sequence[str],
    failures: Sequence[Failures],
    differences: Sequence[Difference],
    places: Sequence[Sequence[int]],
) -> Path:
    """Write the page beside the models' own ones, which lie in folders 0, 1, ... of it.

    `places` are the ids of the images in each of those pages, in their order.
    """
    rows: list[tuple[Cell, ...]] = [
        (metric, *(measured(one.metrics[metric]) for one in failures)) for metric in METRICS
    ]
    outcomes = [one.outcomes for one in failures]
    rows += [
        ("found", *(one.found for one in outcomes)),
        ("missed", *(one.objects - one.found for one in outcomes)),
        ("false alarms", *(one.false_alarms for one in outcomes)),
        ("parameters", *(f"{one.session.detector.parameters or 0:,}" for one in failures)),
    ]
    links = "".join(f'<li><a href="{i}/index.html">{escaped(name)}</a></li>' for i, name in enumerate(names))
    write_page(
        folder / PAGE,
        "Models side by side",
        " ".join(one.verdict for one in differences),
        [
            Section("", widget=f"<style>{STYLE}</style>"),
            Section("Numbers", "AR and AP as COCO has them; by size at 32 and 96 pixels.",
                    columns=("", *names), rows=rows),
            Section("The page of each", widget=f"<ul>{links}</ul>"),
            *_gains(names[0], differences),
            *(
                _pictures(names, failures, i, places)
                for i in range(1, len(failures))
            ),
        ],
    )  # fmt: skip
    return folder / PAGE


def _gains(first: str, differences: Sequence[Difference]) -> Iterator[Section]:
    for one in differences:
        rows = [
            (name, f"{gain.value:+.3f}", f"{gain.low:+.3f} to {gain.high:+.3f}", "" if gain.covers_zero else "yes")
            for name, gain in one.gains.items()
        ]
        yield Section(
            f"{one.name} against {first}",
            "Both see the same pictures in each draw of the bootstrap. Where the interval covers 0, the difference "
            "may be luck; of many classes, one in twenty seems to differ by luck alone.",
            columns=("", "difference", "95 % interval", "sure"),
            rows=rows,
        )


def _pictures(names: Sequence[str], failures: Sequence[Failures], i: int, places: Sequence[Sequence[int]]) -> Section:
    """Those in which two models differ most, with a link to each model's own view."""
    first, other = failures[0].outcomes.image_scores, failures[i].outcomes.image_scores
    gains = other - first  # (I,)
    order = [n for n in np.argsort(-np.abs(gains), kind="stable").tolist() if gains[n]][:SHOWN]
    tiles = []
    for n in order:
        image_id = int(failures[0].truth.image_ids[n])
        image = shrunk(failures[0].session.picture(failures[0].place_of[image_id]))
        image.thumbnail((TILE, TILE))
        links = ", ".join(
            f'<a href="{k}/index.html#image={image_id}">{escaped(names[k])}</a> {scores[n]:.2f}'
            for k, scores in ((0, first), (i, other))
            if image_id in places[k]
        )
        file = escaped(failures[0].file(image_id))
        tiles.append(
            f'<figure><img alt="" src="{as_url(image)}"><figcaption>{file}<br>F1: {links}</figcaption></figure>'
        )
    return Section(
        f"Where {names[i]} and {names[0]} differ most",
        "F1 of each picture at each model's own threshold; a name opens the picture in that model's page.",
        widget=f'<div class="tiles">{"".join(tiles)}</div>' if tiles else "<p>Nowhere.</p>",
    )
