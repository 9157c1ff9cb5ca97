"""The way of a picture through a model, step by step, read off the model while it runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detrcli.data.batching import collate
from detrcli.errors import UsageError
from detrcli.inference.detector import Detector
from detrcli.losses.scoring import Scoring
from detrcli.model.inspectable import Inspectable, Shape, Stage


@dataclass(frozen=True)
class Stop:
    """A step of the way: what came out of it for one picture, and what that means."""

    name: str
    shape: Shape
    what: str


def walk(detector: Detector, pixels: Tensor) -> list[Stop]:
    """What every part of the model gives for a picture (3, H, W), in the order of the work."""
    return _walk(detector.model, detector.inspect(), detector.scoring, pixels)


@torch.inference_mode()
def feature_maps(detector: Detector, pixels: Tensor) -> dict[str, np.ndarray]:
    """What the stages before the encoder put out for a picture (3, H, W), (C, h, w) each, by their names."""
    maps: dict[str, np.ndarray] = {}
    handles = []

    def listen(stage: Stage) -> None:
        def hear(_module: nn.Module, _inputs: Any, output: Any) -> None:
            found = stage.pick(output)
            if found.ndim == 4 and stage.axes == 3:
                maps[stage.name] = found[0].float().cpu().numpy()

        handles.append(stage.module.register_forward_hook(hear))

    for stage in detector.inspect().stages():
        listen(stage)
    try:
        detector.model(collate([pixels]))
    finally:
        for handle in handles:
            handle.remove()
    return maps


def shapes_at(detector: Detector, height: int, width: int) -> list[Shape] | None:
    """The shapes on the way of a picture of another size, without the work; None where it cannot go it."""
    architecture = detector.checkpoint.architecture
    with torch.device("meta"):  # where tensors have shapes and no numbers
        model = architecture.build(detector.checkpoint.config).eval().to("meta")
        pixels = torch.empty(3, height, width)
        try:
            stops = _walk(model, architecture.inspect(model), detector.scoring, pixels)
        except (UsageError, RuntimeError, ValueError):  # learned positions end somewhere; some networks need numbers
            return None
    return [stop.shape for stop in stops]


@torch.inference_mode()
def _walk(model: nn.Module, inspectable: Inspectable, scoring: Scoring, pixels: Tensor) -> list[Stop]:
    stages = inspectable.stages()
    with _heard(stages) as shapes:
        output = model(collate([pixels]))
    shapes = {"picture": tuple(pixels.shape)} | shapes
    others = [
        Stop(
            group.name,
            tuple(group.boxes.shape[2:]),
            f"{group.boxes.shape[2]} further queries with classes and boxes of their own; layers: {len(group)}",
        )
        for group in output.others
        if shapes.get(group.name) != tuple(group.boxes.shape[2:])  # else a stage told it
    ]
    return [
        Stop(
            "picture",
            shapes["picture"],
            "red, green and blue by rows and columns of pixels, scaled as the network was trained to see them",
        ),
        *(Stop(stage.name, shapes[stage.name], stage.what(shapes[stage.name], shapes)) for stage in stages),
        *others,
        Stop(
            "answers",
            (scoring.select(output.last.logits).scores.shape[1], 2),
            "the likeliest classes of the queries, each with its probability; a threshold leaves the detections",
        ),
    ]


@contextmanager
def _heard(stages: Sequence[Stage]) -> Iterator[dict[str, Shape]]:
    """The shapes that the stages put out for one picture."""
    shapes: dict[str, Shape] = {}

    def listen(stage: Stage) -> Any:
        def hear(_module: nn.Module, _inputs: Any, output: Any) -> None:
            shape = tuple(stage.pick(output).shape)
            shapes[stage.name] = shape[1:] if stage.axes is None else shape[-stage.axes :]

        return stage.module.register_forward_hook(hear)

    handles = [listen(stage) for stage in stages]
    try:
        yield shapes
    finally:
        for handle in handles:
            handle.remove()
