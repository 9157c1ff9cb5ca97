"""What `detr match-debug` knows of one image, for programs: as JSON, and as arrays."""

from dataclasses import asdict
from typing import Any

import numpy as np

from detrcli.cli.match_debug.facts import Facts, or_none
from detrcli.evaluation.class_mapping import NONE
from detrcli.inspection.matching import TERMS, changed, weights_of
from detrcli.structures import Classes


def document(facts: Facts, written: dict[str, str]) -> dict[str, Any]:
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
        "queries": [or_none(row) for row in facts.queries],
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
                for layer, n, query, other in facts.flips
            ],
        },
        "files": written,
    }


def arrays(facts: Facts) -> dict[str, Any]:
    """The same numbers, of the layers that are shown, by name; -1 for the query of an object without one."""
    return {
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
