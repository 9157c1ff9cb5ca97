"""The stages of a model, recorded while it runs on an image: output shapes, each explained in a sentence."""

import math
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detrcli.data.preprocessing import collate
from detrcli.errors import UsageError
from detrcli.inference.detector import Detector
from detrcli.losses.scoring import Scoring
from detrcli.model.inspectable import Shape, Stage
from detrcli.structures import Output


@dataclass(frozen=True)
class Step:
    """A step from image to detections: the shape of its output for a single image, and what it means."""

    name: str
    shape: Shape
    meaning: str  # a sentence


def trace_steps(detector: Detector, pixels: Tensor) -> list[Step]:
    """Return the steps of a detector for pixels (3, H, W), in the order of computation."""
    scoring = detector.scoring
    output, outputs = _run(detector, pixels)
    image: Shape = tuple(pixels.shape)
    steps = [Step("image", image, "red, green and blue of each pixel, normalized as in training")]
    for stage, tensor in outputs:
        shape = tuple(tensor.shape)
        shape = shape[1:] if stage.axes is None else shape[-stage.axes :]  # of a single image
        steps.append(Step(stage.name, shape, _meaning(stage, shape, image, scoring)))
    described = {(step.name, step.shape) for step in steps}
    for group in output.others:
        shape = tuple(group.boxes.shape[2:])  # (Q, 4)
        if (group.name, shape) not in described:
            text = f"{shape[0]} additional queries with their own classes and boxes, in {_count(len(group), 'layer')}"
            steps.append(Step(group.name, shape, text))
    selected = scoring.select(output.last.logits).scores.shape[1]
    text = "the most probable classes of the queries with their scores; a score threshold leaves the detections"
    return [*steps, Step("selection", (selected, 2), text)]


def shapes_at(detector: Detector, height: int, width: int) -> list[Shape] | None:
    """Return the shapes of all steps at another image size, without computing values; None if that is not possible."""
    checkpoint, meta = detector.checkpoint, torch.device("meta")
    with meta:
        model = checkpoint.architecture.build(checkpoint.config).eval().to(meta)
        try:
            steps = trace_steps(Detector(checkpoint, meta, model=model), torch.empty(3, height, width))
        except (UsageError, RuntimeError, ValueError):  # learned positions are limited; some networks need values
            return None
    return [step.shape for step in steps]


def feature_maps(detector: Detector, pixels: Tensor) -> dict[str, np.ndarray]:
    """Return the outputs (C, h, w) of the stages before the encoder for pixels (3, H, W), by stage name."""
    _, outputs = _run(detector, pixels)
    maps = {stage.name: output for stage, output in outputs if output.ndim == 4 and stage.axes == 3}
    return {name: output[0].float().cpu().numpy() for name, output in maps.items()}


@torch.inference_mode()
def _run(detector: Detector, pixels: Tensor) -> tuple[Output, list[tuple[Stage, Tensor]]]:
    """Run the model on pixels (3, H, W). Return its output, and the output of each stage in order of computation."""
    recorded: dict[str, Tensor] = {}

    def record(stage: Stage, _module: nn.Module, _inputs: Any, output: Any) -> None:
        recorded[stage.name] = stage.pick(output)

    stages = detector.inspect().stages()
    with ExitStack() as hooks:
        for stage in stages:
            hooks.enter_context(stage.module.register_forward_hook(partial(record, stage)))
        output = detector.model(collate([pixels]))
    return output, [(stage, recorded[stage.name]) for stage in stages]


def _meaning(stage: Stage, shape: Shape, image: Shape, scoring: Scoring) -> str:
    facts = stage.facts
    layers = _count(facts.get("layers", 0), "layer")
    points = _count(facts["points"], "point") if facts.get("points") else "a few points"
    sampled = facts.get("attention") == "sampled"
    match stage.name:
        case "backbone" if facts.get("nms"):
            return (
                "feature maps, each with half the resolution of the previous (the first is shown); boxes are proposed "
                "and scored in each of their cells, and non-maximum suppression removes overlapping boxes"
            )
        case "backbone" if stage.axes == 3:
            # Sizes are rounded up to whole cells; the longest side gives the most exact ratio.
            stride = 2 ** round(math.log2(max(image[axis] / shape[axis] for axis in (1, 2))))
            return (
                f"convolutional features: {shape[0]:,} channels for each cell of {stride} x {stride} pixels and its "
                "surroundings"
            )
        case "backbone":
            return "features of the image; the shape is that of the last feature map"
        case "projection":
            return f"the same cells with {shape[0]} channels, the width of the transformer"
        case "position":
            return "positional encoding of each cell, added to the features because attention ignores order"
        case "levels":
            order = ", the finest first" * (facts["levels"] > 1)
            return (
                f"{_count(facts['levels'], 'feature map')} with {shape[1]} channels as {shape[0]:,} tokens{order}; "
                "encodings of level, row and column are added"
            )
        case "encoder" if sampled and "layers" in facts:
            return f"the {shape[0]:,} tokens after {layers} of attention, each to {points} per level around its cell"
        case "encoder" if "layers" in facts:
            return f"the {shape[0]:,} cells as a sequence, after {layers} of attention from every cell to all others"
        case "encoder":
            return "the features after layers in which all locations and levels exchange information"
        case "proposals" | "tokens":
            return f"a box proposal of each of the {shape[0]:,} tokens, with a score; the best become queries"
        case "decoder" if facts.get("attention") == "joint":
            return f"{facts['count']} object queries and all image patches, after {layers} of attention among them"
        case "decoder":
            kinds = {"learned": ", a learned slot for an object each,", "proposed": ", the best proposals,"}
            queries = f"{facts.get('count', shape[0])} object queries{kinds.get(facts.get('queries', ''), '')}"
            where = f"{points} per level of the image" if sampled else "all cells of the image"
            return f"{queries} after {layers} of attention to each other and to {where}"
        case "class head" if scoring.num_logits(1) > 1:
            classes = f'{shape[1] - 1} classes and of "no object"'
            return f"for each query a logit of each of {classes}; a softmax turns them into probabilities"
        case "class head":
            return f"for each query a logit of each of {shape[1]} classes; a sigmoid turns each into a probability"
        case "box head" if shape[1] != 4:
            return f"for each query {shape[1] // 4} logits of each side of its box: a distribution of its position"
        case "box head":
            what = "a correction of its box" if facts.get("refines") else "its box"
            return f"for each query {what}: center x, center y, width and height as shares of the image"
        case _:
            return f"the output of {type(stage.module).__name__}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)
