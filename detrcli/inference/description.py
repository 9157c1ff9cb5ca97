"""The description of an exported model for programs that run it without this package.

It is a JSON document in the metadata of the file: how an image becomes the input, and how outputs become detections.
guide/deploy.md documents the keys.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.config import Preprocessing

KEY = "detector"  # of the document in the metadata
SCHEMA = "detr.exported-model/1"

Shape = Sequence[int | str]  # names in place of variable dimensions
INPUT: Shape = ("batch", 3, "height", "width")
OUTPUTS: Mapping[str, Shape] = {"logits": ("batch", "queries", "classes"), "boxes": ("batch", "queries", 4)}


def named_shape(shape: Sequence[Any], names: Shape) -> list[int | str]:
    """Return a traced shape with the names in place of symbols."""
    return [side if isinstance(side, int) else name for side, name in zip(shape, names, strict=True)]


def shapes_of(program: Any) -> dict[str, list[int | str]]:
    """Return the shapes of the input and the outputs of an exported program, by name."""
    nodes = {node.name: node for node in program.graph.nodes}
    signature = program.graph_signature
    values = [nodes[name].meta["val"].shape for name in (*signature.user_inputs, *signature.user_outputs)]
    named = {"images": INPUT, **OUTPUTS}
    return {name: named_shape(shape, names) for shape, (name, names) in zip(values, named.items(), strict=True)}


def describe(checkpoint: Checkpoint, shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Return the description of a model whose input and outputs have these shapes."""
    p, scoring, classes = checkpoint.preprocessing, checkpoint.scoring, checkpoint.classes
    queries, row = shapes["logits"][1:]
    pairs = scoring.num_pairs(int(queries))
    names = zip(classes.ids.tolist(), classes.names.tolist(), strict=True)
    return {
        "schema": SCHEMA,
        "input": {"name": "images", "shape": shapes["images"], "type": "float32", **_preprocessing(p)},
        "outputs": {name: {"shape": shapes[name], "type": "float32"} for name in OUTPUTS},
        "scoring": {
            "function": scoring.function,
            "no_object": len(classes) if int(row) > len(classes) else None,
            "select": "queries" if pairs is None else "pairs",
            "count": int(queries) if pairs is None else min(pairs, int(queries) * len(classes)),
        },
        "boxes": {
            "format": "cxcywh",
            "relative_to": "padded square" if p.resize.pads_first else "image",
            "clip": checkpoint.clips_boxes,
        },
        "classes": [{"id": id_, "name": name} for id_, name in names],
    }


def _preprocessing(p: Preprocessing) -> dict[str, Any]:
    rule = p.resize.facts()
    return {
        "channels": "RGB",
        "size": {"rule": rule.pop("kind"), **rule, "formula": list(p.resize.formula)},
        "pad": "square" if p.resize.pads_first else None,
        "resize": {
            "filter": p.filter,
            "antialias": p.antialias,
            "blur": p.blur,
            "values": "float" if p.rescale_first or p.resize.pads_first else "uint8",
            "implementation": p.backend,
        },
        "rescale": 1 / 255,
        "mean": list(p.mean),
        "std": list(p.std),
    }
