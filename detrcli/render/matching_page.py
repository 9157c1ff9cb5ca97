"""A page to walk through the layers and queries of a matching."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detrcli.inspection.explained import of_picture
from detrcli.inspection.report import MatchReport
from detrcli.losses.scoring import NOTHING
from detrcli.render.colour import heat
from detrcli.render.matching_figure import MATCHED, TRUTH, UNMATCHED_QUERY
from detrcli.render.page import Section, as_url, write_page
from detrcli.system.text import visible

SCRIPT = Path(__file__).with_name("matching.js")

WIDGET = """
<style>
#view {{ display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 1rem; }}
#shown {{ align-self: start; position: sticky; top: 0; }}
#shown img {{ width: 100%; display: block; }}
#shown svg {{ position: absolute; inset: 0; width: 100%; height: 100%; }}
#boxes rect, #boxes line {{ stroke-width: 2; vector-effect: non-scaling-stroke; }}
#boxes rect {{ fill: none; }}
#boxes line {{ stroke: white; filter: drop-shadow(0 0 1px black); }}
#boxes text {{ paint-order: stroke; stroke-width: .4em; stroke-linejoin: round; font-family: sans-serif; }}
#boxes .object {{ stroke: rgb{object}; }} #boxes text.object {{ fill: white; }}
#boxes .matched {{ stroke: rgb{matched}; }} #boxes text.matched {{ fill: black; }}
#boxes .chosen {{ stroke: rgb{chosen}; }} #boxes text.chosen {{ fill: black; }}
#boxes rect.chosen {{ stroke-width: 4; }}
#side {{ overflow-x: auto; }}
#costs td {{ padding: 0 .4rem; text-align: right; font-variant-numeric: tabular-nums; }}
#costs th {{ padding: 0 .6rem 0 0; font-weight: normal; }}
#costs td.matched {{ outline: 3px solid rgb{matched}; outline-offset: -3px; font-weight: bold; }}
#costs tr {{ cursor: pointer; }}
#costs tr.chosen th {{ background: rgb{chosen}; color: black; }}
</style>
<p>
<label><input id="layer" type="range" min="0" step="1"> <span id="layer-name"></span></label> &nbsp;
<label>query <select id="query"></select></label> &nbsp;
<label>costs <select id="term"></select></label>
</p>
<p id="said" aria-live="polite"></p>
<div id="view">
<div id="shown"><img alt="the picture" src="{picture}"><svg id="boxes"></svg></div>
<div id="side"><div id="scale"></div><table id="costs"></table></div>
</div>
"""


def write_matching_page(path: Path, report: MatchReport, image: Image.Image) -> None:
    """Write the page of one image; all that it shows is in it."""
    widget = WIDGET.format(object=TRUTH, matched=MATCHED, chosen=UNMATCHED_QUERY, picture=as_url(image))
    write_page(
        path,
        "How the matching decided",
        f"{report.file}. Blue: the ground truth. Orange: the predictions of the matched queries. "
        "Pink: the query that you chose.",
        [Section("Layers, queries, costs", widget=widget)],
        data=_data(report, image),
        script=SCRIPT.read_text(encoding="utf-8"),
    )


def _data(report: MatchReport, image: Image.Image) -> dict[str, Any]:
    names = [visible(str(name)) for name in report.classes.names]

    def shares(boxes: np.ndarray) -> list[list[float]]:
        """cx, cy, w, h in [0, 1] of the picture."""
        return of_picture(boxes, report.placement).tolist()

    return {
        "image": {"width": image.width, "height": image.height},
        "heat": heat(np.linspace(0, 1, 64)).tolist(),
        "weights": {**report.cost_weights, "total": 1},
        "targets": [
            {"label": names[label], "box": box}
            for label, box in zip(
                report.target.labels.tolist(), shares(report.target.boxes.numpy()), strict=True
            )
        ],
        "layers": [
            {
                "boxes": shares(layer.boxes),
                "labels": [names[label] for label in layer.labels.tolist()],
                "nothing": (layer.top == NOTHING).tolist(),
                "scores": layer.scores.tolist(),
                "cost": {
                    term: np.round(values, 5).tolist()
                    for term, values in {**layer.terms, "total": layer.total}.items()
                },
                "pairs": [asdict(pair) for pair in layer.pairs],
            }
            for layer in report.layers
        ],
    }
