"""A picture that is looked into: what is asked of it, and what its queries say."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detrcli.data.preprocessing import prepare
from detrcli.errors import UsageError
from detrcli.inference.detector import Detector
from detrcli.inference.postprocess import detections
from detrcli.inspection.attention import Recording, recorded
from detrcli.render.draw import Mark
from detrcli.structures import Detections

Head = int | None  # None is the mean of all


@dataclass(frozen=True)
class Look:
    """A picture with what every query of every decoder layer says of it, and the recording of how it got there."""

    file: Path
    image: Image.Image
    pixels: Tensor  # (3, h, w), as the network saw it
    recording: Recording
    layers: Sequence[Detections]  # all queries in their order
    nothing: np.ndarray  # (L, Q) bool, where "no object" is likelier than any class

    @property
    def found(self) -> Detections:
        """What the last layer says, which is what `detr predict` tells."""
        return self.layers[-1]


def look(detector: Detector, file: Path, image: Image.Image) -> Look:
    """One forward pass, the same as predict's."""
    pixels = prepare(image, detector.preprocessing).to(detector.device)
    with recorded(detector.model) as recording:
        detector.forward([pixels])
    size = (image.height, image.width)
    said = [layer.logits[0].argmax(-1) == layer.logits.shape[-1] - 1 for layer in recording.predictions]
    return Look(
        file=file,
        image=image,
        pixels=pixels,
        recording=recording,
        layers=[detections(layer, [size], detector.classes)[0] for layer in recording.predictions],
        nothing=torch.stack(said).cpu().numpy(),
    )


def chosen_queries(look: Look, asked: Sequence[int], threshold: float) -> list[int]:
    """Those asked for, else all that predict would tell, the surest first."""
    scores = look.found.scores
    if wrong := [query for query in asked if not 0 <= query < len(scores)]:
        raise UsageError(f"--query {wrong[0]}: the model has queries 0 to {len(scores) - 1}.")
    kept = np.flatnonzero(scores >= threshold)
    queries = list(dict.fromkeys(asked)) or kept[np.argsort(-scores[kept], kind="stable")].tolist()
    if not queries:
        best = int(scores.argmax())
        raise UsageError(
            f"No query reaches --threshold {threshold}; the best is query {best}, {look.found.labels[best]} "
            f"{scores[best]:.2f}.\nGive a lower --threshold, or --query N."
        )
    return queries


def chosen(option: str, asked: str, count: int, whole: str, default: int) -> list[int]:
    """Which layers or heads `last|all|I` or `mean|all|I` means; `whole` stands for `default`."""
    if asked in (whole, "all"):
        return [default] if asked == whole else list(range(count))
    if not asked.isdecimal() or int(asked) >= count:
        raise UsageError(f"{option} {asked}: it is {whole}, all or a number from 0 to {count - 1}.")
    return [int(asked)]


def chosen_heads(asked: str, count: int) -> list[Head]:
    """The heads, counted from 0; None for their mean."""
    return [None] if asked == "mean" else list(chosen("--head", asked, count, "mean", 0))


def chosen_points(asked: Sequence[str], image: Image.Image) -> list[tuple[float, float]]:
    """Places X,Y in pixels of the picture."""
    points = []
    for text in asked:
        try:
            x, y = (float(part) for part in text.split(","))
        except ValueError:
            raise UsageError(f"--encoder {text}: give X,Y in pixels, such as 120,80.") from None
        if not (0 <= x < image.width and 0 <= y < image.height):
            raise UsageError(
                f"--encoder {text}: the picture ends at {image.width - 1},{image.height - 1}; it begins at 0,0."
            )
        points.append((x, y))
    return points


def of_heads(maps: Tensor, heads: Sequence[Head], axis: int) -> np.ndarray:
    """Some heads of what has them along an axis, or the mean of all, on the CPU."""
    kept = [maps.mean(axis, keepdim=True) if head is None else maps.narrow(axis, head, 1) for head in heads]
    return torch.cat(kept, axis).float().cpu().numpy()


def said_of(look: Look, layer: int, query: int) -> dict[str, Any]:
    """What a layer says of a query, as `detr predict` puts it."""
    found = look.layers[layer]
    return {
        "query": query,
        "category_id": int(found.category_ids[query]),
        "label": str(found.labels[query]),
        "score": round(float(found.scores[query]), 6),
        "nothing": bool(look.nothing[layer, query]),
        "box": [round(value, 3) for value in found.boxes[query].tolist()],
    }


def named(said: dict[str, Any]) -> str:
    """The class, or that there is none."""
    return f"nothing, at best {said['label']}" if said["nothing"] else said["label"]


def found_in(said: dict[str, Any]) -> str:
    """The same in short, with its score."""
    return "nothing" if said["nothing"] else f"{said['label']} {said['score']:.2f}"


def mark_of(look: Look, layer: int, query: int) -> Mark:
    """A query's box and class, with its number."""
    said = said_of(look, layer, query)
    x0, y0, x1, y1 = said["box"]
    return Mark(
        (x0, y0, x1, y1),
        f"{query} {'nothing' if said['nothing'] else said['label']}",
        said["category_id"],
        None if said["nothing"] else said["score"],
    )
