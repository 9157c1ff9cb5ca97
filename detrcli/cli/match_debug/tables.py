"""What `detr match-debug` knows of one image, for people: the tables."""

from collections.abc import Iterator

from detrcli.cli.console import print_table
from detrcli.cli.match_debug.facts import Facts, or_none
from detrcli.inspection.matching import TERMS, Layer, weights_of
from detrcli.inspection.mistakes import BACKGROUND, DUPLICATE, Extra
from detrcli.system.text import visible

WHY = {
    "no-query": "there are more objects than queries",
    "no-object": "says no object",
    "class": "says another class",
    "score": "is not sure enough",
    "box": "its box is off",
    None: "finds it",
}


def show(facts: Facts) -> None:
    """The tables."""
    objects = len(facts.target.labels)
    cost = " + ".join(f"{weight:g} {name}" for name, weight in weights_of(facts.config).items())
    print(
        visible(
            f"{facts.file} (image {facts.image_id}): {facts.width} x {facts.height} pixels, "
            f"{objects} object{'s' if objects != 1 else ''}, {len(facts.layers[-1].boxes)} queries"
        )
    )
    print(f"cost = {cost}; below, all terms are weighted")
    for layer in facts.shown:
        if layer.pairs:
            where = f"layer {layer.layer} of 0 to {len(facts.layers) - 1}"
            print(f"\n{where}: who was given which object, and who came second")
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
                (str(n), facts.target_name(n), *or_none(facts.queries[:, n]))
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
        flips = facts.flips
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
