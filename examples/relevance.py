"""Compare two explanations of a query: the attention of the last layer, and relevance through all layers.

    python examples/relevance.py --weights W

Generates new images of `shapes`. For each object, uses the query that detects it (same class, IoU of at least 0.5,
score of at least 0.5). For each map, measures deletion: the area under the query's score as cells are hidden, highest
weight first (lower is better); insertion: the same as cells are shown (higher is better); and the share of the map
inside the visible part of the object (higher is better). `random` uses a random order, and its share is that of a
uniform map. Also prints for how many objects relevance is better, and the mean difference with its standard error.
Expected: all values are finite, and both maps are far better than random; which is better depends on the weights.
Takes a few minutes for 200 objects of a detr-tiny on two cores.
"""

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from timing import show

import detrcli
from detrcli.boxes import iou, masks_to_boxes
from detrcli.data.preprocessing import prepare
from detrcli.data.shapes import DEFAULT, scene
from detrcli.inference.detector import Detector
from detrcli.inspection.maps import mask_coverage
from detrcli.inspection.relevance import area, deletion_and_insertion, random_maps, relevance

FIRST = 1 << 31  # images from this number on are in neither train nor val
SEED = 0
MIN_SCORE = 0.5
MAPS = ("attention", "relevance", "random")
MEASURES = {"deletion": -1, "insertion": 1, "in mask": 1}  # 1 if higher is better


def measures(detector: Detector, number: int) -> Iterator[dict[str, dict[str, float]]]:
    """Yield the measures of each map for every detected object of an image."""
    generated = scene(SEED, FIRST + number)
    image = Image.fromarray(generated.pixels)
    pixels = prepare(image, detector.preprocessing).to(detector.device)
    inspectable = detector.inspect()
    with inspectable.recorded() as record:
        detector.output([pixels])
    detections = detector.predict(image, threshold=0)
    truth = masks_to_boxes(torch.from_numpy(generated.masks)).float()  # (N, 4), xyxy
    for label, mask, box in zip(generated.labels, generated.masks, truth, strict=True):
        candidates = (detections.labels == DEFAULT[label]) & (detections.scores >= MIN_SCORE)
        ious = iou(torch.from_numpy(detections.boxes), box).numpy() * candidates  # (Q,)
        query = int(detections.queries[np.argmax(ious)])
        if ious.max() < 0.5:
            continue
        last = inspectable.decoder_layers - 1
        attention = record.cross(last, [query]).density()[0, 0].mean(0).cpu().numpy()  # (h, w)
        relevant = relevance(detector, pixels, [query])[0].cpu().numpy()
        shuffled = random_maps(record.cells, 1, seed=number)
        measured = deletion_and_insertion(detector, pixels, query, [attention, relevant, *shuffled])
        covered = mask_coverage(mask, record.cells)
        shares = (attention * covered).sum(), (relevant * covered).sum(), covered.mean()
        yield {
            name: {**{kind: area(scores) for kind, scores in curves.items()}, "in mask": float(share)}
            for name, curves, share in zip(MAPS, measured, shares, strict=True)
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--objects", type=int, default=200)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    detector = detrcli.load(args.weights, device=args.device)
    if tuple(detector.classes.names) != DEFAULT:
        parser.error(f"the weights are not for shapes: {', '.join(detector.classes.names)}")

    measured: list[dict[str, dict[str, float]]] = []
    number = 0
    while len(measured) < args.objects:
        measured += measures(detector, number)
        number += 1
        if number == 100 and not measured:
            parser.error("the weights detect nothing in shapes")
    measured = measured[: args.objects]

    rows = [
        {"map": name, **{key: round(float(np.mean([maps[name][key] for maps in measured])), 4) for key in MEASURES}}
        for name in MAPS
    ]
    gains = {}
    for measure, sign in MEASURES.items():
        gain = sign * np.array([maps["relevance"][measure] - maps["attention"][measure] for maps in measured])
        gains[f"relevance better by {measure}"] = {
            "objects": int((gain > 0).sum()),
            "by": round(float(gain.mean()), 4),
            "error": round(float(gain.std(ddof=1) / len(gain) ** 0.5), 4),
        }
    show(rows, objects=len(measured), images=number, **gains)


if __name__ == "__main__":
    main()
