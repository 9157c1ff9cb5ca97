"""`detr match-debug` of one image: its tables, its document, its files."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detrcli.cli.console import print_json, print_table, warn
from detrcli.cli.outputs import next_free_file
from detrcli.cli.truths import Truths
from detrcli.config import LossConfig, MatchingConfig
from detrcli.draw import save
from detrcli.errors import UsageError
from detrcli.evaluation.pairing import NONE
from detrcli.files import write_whole
from detrcli.inspection.losses import Charges, charges
from detrcli.inspection.matching import (
    NOBODY,
    TERMS,
    Layer,
    changed,
    explain,
    queries_of,
    weights_of,
)
from detrcli.inspection.mistakes import BACKGROUND, DUPLICATE, Extra, Missed, extra, missed
from detrcli.sheets.matching import matching_sheet
from detrcli.structures import Classes, Target
from detrcli.text import visible
from detrcli.variants.detr import build_criterion

DEFAULT_OUT = "match-debug.png"
WHY = {
    "no-query": "there are more objects than queries",
    "no-object": "says no object",
    "class": "says another class",
    "score": "is not sure enough",
    "box": "its box is off",
    None: "finds it",
}


@dataclass(frozen=True)
class Facts:
    """All that is known of one image."""

    image_id: int
    file: str
    width: int
    height: int
    classes: Classes
    target: Target
    threshold: float
    config: MatchingConfig
    other: MatchingConfig  # other weights of the costs
    layers: Sequence[Layer]  # all of them
    shown: Sequence[Layer]
    charges: Sequence[Charges]
    queries: np.ndarray  # (L, N)
    other_queries: np.ndarray  # (L, N), with the other weights
    missed: Sequence[Missed]
    extra: Sequence[Extra]

    def name(self, label: int | None) -> str:
        """A class by its index."""
        return "" if label is None else str(self.classes.names[label])

    def target_name(self, n: int) -> str:
        """The class of an object."""
        return self.name(int(self.target.labels[n]))


def show_image(
    truths: Truths,
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
        write_whole(outs["raw"], _arrays(facts))
    if outs["page"] is not None:
        from detrcli.sheets.matching_page import write_matching_page

        write_matching_page(
            outs["page"], picture, facts.file, layers, facts.target, facts.classes, facts.config
        )
    written = {name: str(path) for name, path in {**outs, "picture": out}.items() if path is not None}
    if json:
        print_json(_document(facts, written))
    else:
        _show(facts)


def _chosen(layers: Sequence[Layer], wanted: str) -> Sequence[Layer]:
    if wanted == "all":
        return layers
    if wanted == "last":
        return layers[-1:]
    if wanted.isdecimal() and int(wanted) < len(layers):
        return [layers[int(wanted)]]
    raise UsageError(f"--layer {wanted}: it is last, all, or 0 to {len(layers) - 1}.")


def _document(facts: Facts, written: dict[str, str]) -> dict[str, Any]:
    """The JSON of one image. Cost matrices are [queries][targets]."""
    return {
        "schema": "detr.match-debug/1",
        "image": {
            "id": facts.image_id,
            "file": facts.file,
            "width": facts.width,
            "height": facts.height,
        },
        "threshold": facts.threshold,
        "cost_weights": weights_of(facts.config),
        "targets": [
            {**class_of(facts.classes, int(label)), "box": rounded(box)}
            for label, box in zip(facts.target.labels, facts.target.boxes.numpy(), strict=True)
        ],
        "layers": [
            {
                "layer": one.layer,
                "cost": {name: rounded(values) for name, values in {**one.terms, "total": one.total}.items()},
                "pairs": [_plain(pair) for pair in one.pairs],
                "predictions": [
                    {
                        "query": query,
                        **class_of(facts.classes, int(one.labels[query])),
                        "score": rounded(one.scores[query]),
                        "box": rounded(one.boxes[query]),
                    }
                    for query in range(len(one.boxes))
                ],
                "loss": {
                    "targets": [
                        {"target": n, **dict(zip(TERMS, rounded(row), strict=True))}
                        for n, row in enumerate(facts.charges[one.layer].targets)
                    ],
                    "no_object": rounded(facts.charges[one.layer].background),
                },
            }
            for one in facts.shown
        ],
        "queries": [_or_null(row) for row in facts.queries],
        "changed": [
            {"layer": i, "targets": np.flatnonzero(changed(facts.queries[i - 1], facts.queries[i])).tolist()}
            for i in range(1, len(facts.queries))
        ],
        "missed": [
            {
                "target": one.target,
                "layers": [
                    {**_plain(answer), **class_of(facts.classes, answer.label)} for answer in one.answers
                ],
            }
            for one in facts.missed
        ],
        "extra": [{**_plain(one), **class_of(facts.classes, one.label)} for one in facts.extra],
        "other_weights": {
            "cost_weights": weights_of(facts.other),
            "flips": [
                {"layer": layer, "target": n, "query": query, "other_query": other}
                for layer, n, query, other in _flips(facts)
            ],
        },
        "files": written,
    }


def _arrays(facts: Facts) -> bytes:
    """The same numbers, of the layers that are shown, as an .npz; -1 for the query of an object without one."""
    arrays: dict[str, Any] = {
        "layers": np.array([one.layer for one in facts.shown]),
        **{f"cost_{name}": np.stack([one.terms[name] for one in facts.shown]) for name in TERMS},  # (L, Q, N)
        "cost_total": np.stack([one.total for one in facts.shown]),
        "cost_weights": np.array(list(weights_of(facts.config).values())),
        "queries": np.stack([one.queries for one in facts.shown]),  # (L, N)
        "boxes": np.stack([one.boxes for one in facts.shown]),  # (L, Q, 4)
        "probabilities": np.stack([one.probabilities for one in facts.shown]),  # (L, Q, K + 1)
        "target_boxes": facts.target.boxes.numpy(),  # (N, 4)
        "target_category_ids": facts.classes.ids[facts.target.labels.numpy()],  # (N,)
        "category_ids": facts.classes.ids,  # (K,)
        "names": facts.classes.names,  # (K,)
    }
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def class_of(classes: Classes, label: int | None) -> dict[str, Any]:
    """A class in the data's terms; its id is null where the data does not have it."""
    if label is None:
        return {"category_id": None, "label": None}
    category = int(classes.ids[label])
    return {"category_id": None if category == NONE else category, "label": str(classes.names[label])}


def _plain(one: Any) -> dict[str, Any]:
    return {
        name: rounded(value) if isinstance(value, float) else value for name, value in asdict(one).items()
    }


def rounded(values: Any) -> Any:
    return np.round(np.asarray(values, dtype=np.float64), 6).tolist()


def _or_null(queries: np.ndarray) -> list[int | None]:
    return [None if query == NOBODY else query for query in queries.tolist()]


def _flips(facts: Facts) -> list[tuple[int, int, int | None, int | None]]:
    """Layer, object, its query, and the one that it would have with the other weights."""
    return [
        (layer, n, _or_null(facts.queries[layer])[n], _or_null(facts.other_queries[layer])[n])
        for layer, n in np.argwhere(changed(facts.queries, facts.other_queries)).tolist()
    ]


def _show(facts: Facts) -> None:
    """The tables."""
    cost = " + ".join(f"{weight:g} {name}" for name, weight in weights_of(facts.config).items())
    print(
        visible(
            f"{facts.file} (image {facts.image_id}): {facts.width} x {facts.height} pixels, "
            f"{len(facts.target.labels)} objects, {len(facts.layers[-1].boxes)} queries"
        )
    )
    print(f"cost = {cost}; below, all terms are weighted")
    for layer in facts.shown:
        print(
            f"\nlayer {layer.layer} of 0 to {len(facts.layers) - 1}: who was given which object, and who came second"
        )
        print_table(
            ("object", "class", "", "query", "says", "score", *TERMS, "total", "margin", "decided by"),
            list(_choices(facts, layer)),
        )
        print(f"\nlayer {layer.layer}: the loss, by what it is charged for")
        print_table(("object", "class", *TERMS, "sum", "share"), list(_loss(facts, layer)))
    if len(facts.shown) > 1:
        print("\nthe query of each object, layer by layer")
        print_table(
            ("object", "class", *(f"layer {one.layer}" for one in facts.layers)),
            [
                (str(n), facts.target_name(n), *_or_null(facts.queries[:, n]))
                for n in range(len(facts.target.labels))
            ],
        )
    if facts.missed:
        print(f"\nmissed: no detection with a score of {facts.threshold:g} or more stands for these objects")
        print_table(
            ("object", "class", "layer", "query", "says", "score", "its class", "IoU", "why"),
            list(_missed(facts)),
        )
    if facts.extra:
        print("\ntoo many: detections that no object was given to")
        print_table(
            ("query", "says", "score", "IoU", "what it is"),
            [
                (one.query, facts.name(one.label), f"{one.score:.3f}", _number(one.iou), _kind(facts, one))
                for one in facts.extra
            ],
        )
    if facts.other != facts.config:
        other = " + ".join(f"{weight:g} {name}" for name, weight in weights_of(facts.other).items())
        flips = _flips(facts)
        print(f"\nwith cost = {other}: {len(flips) or 'no'} pairs would be others")
        if flips:
            print_table(
                ("layer", "object", "class", "query", "would be"),
                [(layer, str(n), facts.target_name(n), a, b) for layer, n, a, b in flips],
            )


def _choices(facts: Facts, layer: Layer) -> Iterator[tuple[str | int | None, ...]]:
    """Two rows an object: its query, and the runner-up."""
    weights = weights_of(facts.config)
    for pair in layer.pairs:
        rows = [("given to", pair.query)] + ([] if pair.runner_up is None else [("second", pair.runner_up)])
        for role, query in rows:
            first = query == pair.query
            yield (
                str(pair.target) if first else "",
                facts.target_name(pair.target) if first else "",
                role,
                query,
                facts.name(int(layer.labels[query])),
                f"{layer.scores[query]:.3f}",
                *(f"{weights[name] * layer.terms[name][query, pair.target]:.3f}" for name in TERMS),
                f"{layer.total[query, pair.target]:.3f}",
                _number(pair.margin) if first else "",
                (pair.decided or "") if first else "",
            )


def _loss(facts: Facts, layer: Layer) -> Iterator[tuple[str, ...]]:
    """A row for each object, and one for the queries without."""
    charged = facts.charges[layer.layer]
    whole = charged.targets.sum() + charged.background
    rows = [(str(n), facts.target_name(n), *row) for n, row in enumerate(charged.targets.tolist())]
    for name, label, *terms in [*rows, ("none", "no object", charged.background, 0.0, 0.0)]:
        share = sum(terms) / whole if whole else 0.0
        yield name, label, *(f"{term:.3f}" for term in terms), f"{sum(terms):.3f}", f"{share:.0%}"


def _missed(facts: Facts) -> Iterator[tuple[str | int | None, ...]]:
    for one in facts.missed:
        for i, answer in enumerate(one.answers):
            yield (
                str(one.target) if i == 0 else "",
                facts.target_name(one.target) if i == 0 else "",
                answer.layer,
                answer.query,
                facts.name(answer.label),
                _number(answer.score),
                _number(answer.own_score),
                _number(answer.iou),
                WHY[answer.why],
            )


def _kind(facts: Facts, one: Extra) -> str:
    if one.target is None:
        return BACKGROUND
    where = f"object {one.target} ({facts.target_name(one.target)})"
    whose = "" if one.partner is None else f", which query {one.partner} was given"
    return f"{'a duplicate' if one.kind == DUPLICATE else 'another class'} on {where}{whose}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
