"""The way of a picture through a model, step by step, read off the model while it runs."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detrcli.data.batching import collate
from detrcli.errors import UsageError
from detrcli.model.detection_transformer import DetectionTransformer

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Stop:
    """A step of the way: what came out of it for one picture, and what that means."""

    name: str
    shape: Shape
    what: str


@dataclass(frozen=True)
class _Part:
    """A part of the model that is listened to."""

    name: str
    module: str  # where it is in the model
    axes: int  # the last so many of its output are a picture's own
    what: Callable[[Shape, dict[str, Shape]], str]  # of its own shape and those before it


@torch.inference_mode()
def walk(model: DetectionTransformer, pixels: Tensor) -> list[Stop]:
    """What every part of the model gives for a picture (3, H, W), in the order of the work."""
    parts = _parts(model)
    with _heard(model, parts) as shapes:
        output = model(collate([pixels]))
    shapes = {"picture": tuple(pixels.shape)} | shapes
    queries = output.last.boxes.shape[1]
    stops = [
        Stop(
            "picture",
            shapes["picture"],
            "red, green and blue by rows and columns of pixels, scaled to lie around zero",
        ),
        *(Stop(part.name, shapes[part.name], part.what(shapes[part.name], shapes)) for part in parts),
    ]
    return [
        *stops,
        Stop(
            "answers",
            (queries, 2),
            'per query its likeliest class, "no object" aside, and that probability',
        ),
    ]


def shapes_at(model: DetectionTransformer, height: int, width: int) -> list[Shape] | None:
    """The shapes on the way of a picture of another size, without the work; None where it cannot go it."""
    hollow = copy.deepcopy(model).to("meta")  # its tensors have shapes and no numbers
    try:
        return [stop.shape for stop in walk(hollow, torch.empty(3, height, width, device="meta"))]
    except UsageError:  # learned positions end somewhere
        return None


@contextmanager
def _heard(model: nn.Module, parts: list[_Part]) -> Iterator[dict[str, Shape]]:
    """The shapes that the parts put out for one picture."""
    shapes: dict[str, Shape] = {}

    def listen(part: _Part) -> Any:
        def hear(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            shapes[part.name] = tuple(output.shape[-part.axes :])

        return model.get_submodule(part.module).register_forward_hook(hear)

    handles = [listen(part) for part in parts]
    try:
        yield shapes
    finally:
        for handle in handles:
            handle.remove()


def _parts(model: DetectionTransformer) -> list[_Part]:
    encoder, decoder = len(model.encoder.layers), len(model.decoder.layers)
    classes = model.class_head.out_features - 1

    def cell(own: Shape, before: dict[str, Shape]) -> str:
        # Edges are rounded up to whole cells, which tells most where the picture is long.
        pixels = 2 ** round(math.log2(max(before["picture"][axis] / own[axis] for axis in (1, 2))))
        return (
            f"convolutions sum up the picture in {own[0]:,} numbers for each cell of {pixels} x {pixels} pixels, "
            "with what they see around it"
        )

    return [
        _Part("backbone", "backbone", 3, cell),
        _Part(
            "projection",
            "projection",
            3,
            lambda own, _: f"the same cells with {own[0]} numbers each, the width of all that follows",
        ),
        _Part(
            "position",
            "position",
            3,
            lambda *_: (
                "a code of each cell's row and column, added where cells are compared: else order is lost"
            ),
        ),
        _Part(
            "encoder",
            "encoder",
            2,
            lambda own, _: (
                f"the {own[0]:,} cells in a row: in {encoder} layers each gathers from all others what matters "
                "to it (attention)"
            ),
        ),
        _Part(
            "decoder",
            f"decoder.layers.{decoder - 1}",
            2,
            lambda own, _: (
                f"{own[0]} object queries, learned slots for one object each: in {decoder} layers they gather from "
                "each other, then from the cells"
            ),
        ),
        _Part(
            "class head",
            "class_head",
            2,
            lambda *_: (
                f'per query a number for each of {classes} classes and one for "no object", which become '
                "probabilities"
            ),
        ),
        _Part(
            "box head",
            "box_head.layers.2",
            2,
            lambda *_: "per query a box: centre x, centre y, width and height as shares of the picture",
        ),
    ]
