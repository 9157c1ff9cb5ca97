"""The description of an exported model for programs that run it without this package.

It is a JSON document in the metadata of the file: how an image becomes the input, and how outputs become detections.
guide/deploy.md documents the keys.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.config import Preprocessing
from detrcli.segmentation.maps import Segmentation

KEY, HEADER = "detector", "detr"  # of the description and of the header of our own checkpoints
MASKS = "masks"  # key in the header
SCHEMA = "detr.exported-model/1"

Shape = Sequence[int | str]  # names in place of variable dimensions
INPUTS: Mapping[str, Shape] = {"images": ("batch", 3, "height", "width"), "sizes": ("batch", 2)}
# Without and with postprocessing.
PREDICTIONS: Mapping[str, Shape] = {
    "logits": ("batch", "queries", "classes"),
    "boxes": ("batch", "queries", 4),
    "masks": ("batch", "queries", "mask_height", "mask_width"),  # logits, of models with masks
}
DETECTIONS: Mapping[str, Shape] = {
    "boxes": ("batch", "detections", 4),
    "scores": ("batch", "detections"),
    "labels": ("batch", "detections"),
}
TYPES = {"labels": "int32"}  # of inputs and outputs that are not float32


@dataclass(frozen=True)
class Metadata:
    """The metadata of an exported file, and the shapes of its inputs and outputs by name, in their order."""

    header: Mapping[str, str]  # of our own checkpoints
    description: Mapping[str, Any]
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]

    @classmethod
    def of(cls, checkpoint: Checkpoint, program: Any, header: Mapping[str, str]) -> Self:
        """Create the metadata of a traced program; if it has two inputs, it has postprocessing."""
        signature, nodes = program.graph_signature, {node.name: node for node in program.graph.nodes}

        def shapes(values: Sequence[str], named: Mapping[str, Shape]) -> dict[str, Shape]:
            traced = [nodes[value].meta["val"].shape for value in values]
            return {
                name: [side if isinstance(side, int) else word for side, word in zip(shape, words, strict=True)]
                for shape, (name, words) in zip(traced, named.items(), strict=False)
            }

        inputs = shapes(signature.user_inputs, INPUTS)
        outputs = shapes(signature.user_outputs, DETECTIONS if len(inputs) > 1 else PREDICTIONS)
        return cls(header, describe(checkpoint, inputs, outputs, header), inputs, outputs)

    def texts(self) -> dict[str, str]:
        """Return header and description as JSON, for formats whose metadata are texts."""
        return {HEADER: json.dumps(dict(self.header)), KEY: json.dumps(self.description)}


def header_in(texts: Mapping[str, str]) -> Mapping[str, str]:
    """Return the header in the texts of a file; empty if it is missing or malformed."""
    try:
        header = json.loads(texts.get(HEADER, "{}"))
    except (ValueError, RecursionError):
        return {}
    return header if isinstance(header, dict) else {}


def describe(
    checkpoint: Checkpoint,
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
    header: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the description of a model with these shapes. A model with masks needs the header of its file."""
    p, classes = checkpoint.preprocessing, checkpoint.classes
    names = zip(classes.ids.tolist(), classes.names.tolist(), strict=True)
    facts: dict[str, Any] = {
        "schema": SCHEMA,
        "input": {"name": "images", "shape": inputs["images"], "type": "float32", **_preprocessing(p)},
        "outputs": {name: {"shape": shape, "type": TYPES.get(name, "float32")} for name, shape in outputs.items()},
    }
    if "sizes" in inputs:
        facts["sizes"] = {"name": "sizes", "shape": inputs["sizes"], "type": "float32"}
        facts["boxes"] = {"format": "xyxy", "relative_to": "pixels"}
    else:
        facts["scoring"] = _scoring(checkpoint, outputs)
        covered = "padded square" if p.resize.pads_first else "image"
        facts["boxes"] = {"format": "cxcywh", "relative_to": covered, "clip": checkpoint.clips_boxes}
    if checkpoint.segmentation is not None:
        facts["masks"] = _masks(checkpoint.segmentation, header or {})
        if checkpoint.segmentation.boxes_around_masks:
            facts["boxes"]["around"] = "masks"
    return {**facts, "classes": [{"id": id_, "name": name} for id_, name in names]}


def _masks(segmentation: Segmentation, header: Mapping[str, str]) -> dict[str, Any]:
    """Return how mask logits become masks of pixels."""
    sizes = segmentation.resizing
    return {
        "values": "logits",
        "covers": "input",
        "resize": sizes,
        "pixel": None if sizes and sizes[-1] == "image" else header[MASKS],
        "inside": "above 0",
        "score": "mean probability inside" if segmentation.boxes_around_masks else None,
    }


def _scoring(checkpoint: Checkpoint, outputs: Mapping[str, Shape]) -> dict[str, Any]:
    """Return how logits become detections."""
    queries, row = map(int, outputs["logits"][1:])
    count, classes = checkpoint.scoring.num_pairs(queries), len(checkpoint.classes)
    return {
        "function": checkpoint.scoring.function,
        "no_object": classes if row > classes else None,
        "select": "queries" if count is None else "pairs",
        "count": queries if count is None else min(count, queries * classes),
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
