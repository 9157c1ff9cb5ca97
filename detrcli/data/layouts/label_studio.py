"""Tasks with predictions for Label Studio, and the labeling interface that they need."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

LABELS = {
    "rectanglelabels": ("RectangleLabels", "label"),
    "polygonlabels": ("PolygonLabels", "polygon"),
}  # tag and name
IMAGE = "image"


@dataclass(frozen=True)
class Shape:
    """An object: its box, or the polygons around the parts of its mask, in pixels."""

    name: str
    score: float
    box: Sequence[float]  # xyxy
    polygons: Sequence[Sequence[float]]  # x, y, x, y, ...


def image_url(path: Path) -> str:
    """Return the address of a file that Label Studio serves, relative to its document root."""
    from urllib.parse import quote  # slow to import

    return "/data/local-files/?d=" + quote(os.fsencode(path.as_posix()))  # the name need not be UTF-8


def task(url: str, number: int, size: tuple[int, int], shapes: Sequence[Shape], model: str) -> dict[str, Any]:
    """Return the task of an image of this (height, width); `number` distinguishes it from others."""
    height, width = size

    def percent(values: Sequence[float]) -> list[float]:
        return [round(100 * value / (width, height)[i % 2], 6) for i, value in enumerate(values)]

    result: list[dict[str, Any]] = []
    for shape in shapes:
        if shape.polygons:
            kind = "polygonlabels"
            places = [
                {"points": list(zip(points[::2], points[1::2], strict=True)), "closed": True}
                for points in map(percent, shape.polygons)
            ]
        else:
            kind = "rectanglelabels"
            x0, y0, x1, y1 = shape.box
            x, y, w, h = percent([x0, y0, x1 - x0, y1 - y0])
            places = [{"x": x, "y": y, "width": w, "height": h, "rotation": 0}]
        for place in places:
            result.append(
                {
                    "id": f"{number}-{len(result) + 1}",
                    "type": kind,
                    "from_name": LABELS[kind][1],
                    "to_name": IMAGE,
                    "original_width": width,
                    "original_height": height,
                    "image_rotation": 0,
                    "value": {**place, kind: [shape.name]},
                    "score": round(shape.score, 6),
                }
            )
    scores = [shape.score for shape in shapes]
    # Label Studio can show tasks of low scores first.
    score = {"score": round(sum(scores) / len(scores), 6)} if scores else {}
    return {"data": {IMAGE: url}, "predictions": [{"model_version": model, **score, "result": result}]}


def interface(names: Sequence[str], tasks: Sequence[dict[str, Any]]) -> bytes:
    """Return the labeling interface (XML) for the classes, with the kinds of shapes that the tasks have."""
    kinds = {shape["type"] for each in tasks for shape in each["predictions"][0]["result"]} or {"rectanglelabels"}
    root = ElementTree.Element("View")
    ElementTree.SubElement(root, "Image", name=IMAGE, value=f"${IMAGE}")
    for kind in sorted(kinds):
        tag, label = LABELS[kind]
        group = ElementTree.SubElement(root, tag, name=label, toName=IMAGE)
        for name in names:
            ElementTree.SubElement(group, "Label", value=name)
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8")
    return text
