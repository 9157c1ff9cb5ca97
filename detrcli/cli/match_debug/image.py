"""`detr match-debug` of one image: on stdout, as a picture, and in the files that were asked for."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detrcli.cli.console import print_json, warn
from detrcli.cli.match_debug.document import arrays, document
from detrcli.cli.match_debug.facts import Facts
from detrcli.cli.match_debug.tables import show
from detrcli.cli.outputs import next_free_file
from detrcli.cli.truths import InspectionSession
from detrcli.config import LossConfig, MatchingConfig
from detrcli.errors import UsageError
from detrcli.inspection.losses import charges
from detrcli.inspection.matching import Layer, explain, queries_of
from detrcli.inspection.mistakes import extra, missed
from detrcli.render.draw import save
from detrcli.render.matching_figure import matching_sheet
from detrcli.render.matching_page import write_matching_page
from detrcli.system.files import write_arrays
from detrcli.variants.detr import build_criterion

DEFAULT_OUT = "match-debug.png"


def show_image(
    truths: InspectionSession,
    place: int,
    layer: str,
    threshold: float,
    matching: tuple[MatchingConfig, MatchingConfig],
    loss: LossConfig,
    outs: dict[str, Path | None],
    *,
    json: bool,
) -> None:
    """Explain one image: on stdout, as a picture, and in the files that were asked for."""
    example = truths.example(place)
    output = truths.output(example)
    target = example.target.to(truths.detector.device)
    config, other = matching
    layers = explain(output, target, config)
    height, width = truths.annotations.sizes[place].tolist()
    facts = Facts(
        image_id=example.image_id,
        file=str(truths.annotations.path(place)),
        width=width,
        height=height,
        classes=truths.classes,
        target=example.target,
        threshold=threshold,
        config=config,
        other=other,
        layers=layers,
        shown=_chosen(layers, layer),
        charges=charges(output, target, build_criterion(loss, config)),
        queries=np.stack([one.queries for one in layers]),
        other_queries=queries_of(output, target, other),
        missed=missed(layers, example.target, threshold),
        extra=extra(layers[-1], example.target, threshold),
    )
    picture = truths.picture(place)
    out = outs["picture"]
    if out is None:
        out = next_free_file(DEFAULT_OUT)
        warn(f"the picture goes to {out}")
    sheet = matching_sheet(picture, facts.shown, facts.target, facts.classes, facts.threshold, facts.config)
    save(sheet, out)
    if outs["raw"] is not None:
        write_arrays(outs["raw"], arrays(facts))
    if outs["page"] is not None:
        write_matching_page(
            outs["page"], picture, facts.file, layers, facts.target, facts.classes, facts.config
        )
    written = {name: str(path) for name, path in {**outs, "picture": out}.items() if path is not None}
    if json:
        print_json(document(facts, written))
    else:
        show(facts)


def _chosen(layers: Sequence[Layer], wanted: str) -> Sequence[Layer]:
    if wanted == "all":
        return layers
    if wanted == "last":
        return layers[-1:]
    if wanted.isdecimal() and int(wanted) < len(layers):
        return [layers[int(wanted)]]
    raise UsageError(f"--layer {wanted}: it is last, all, or 0 to {len(layers) - 1}.")
