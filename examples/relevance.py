"""Which map of a query can be believed: its last layer's attention, or relevance through all layers.

    python examples/relevance.py --weights W

Draws pictures of `shapes` that no training has seen and takes, for each object, the query that found it (same class,
IoU of at least 0.5, score of at least 0.5). Of each map: the area under the query's score as the map's cells are
hidden, those with most weight first (small is good), the same as they come back (large is good), and the share of
the map's weight inside what is visible of the object (large is good). `random` hides in no order; its share is what
an even map has. Also in how many objects relevance is the better one, and the difference with its standard error.
Expected: all of it is finite and both maps are far better than random; which of the two is better depends on the
weights, and that is the point. A few minutes for 200 objects of a detr-tiny on two cores.
"""

import argparse
import json
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image

import detrcli
from detrcli.boxes import iou
from detrcli.data.preprocessing import prepare
from detrcli.data.shapes import DEFAULT, scene
from detrcli.inference.detector import Detector
from detrcli.inspection.comparison import area, deletion_and_insertion, random_maps
from detrcli.inspection.maps import mask_coverage
from detrcli.inspection.relevance import relevance

FIRST = 1 << 31  # pictures from here on are neither train nor val
SEED = 0
SURE = 0.5
MAPS = ("attention", "relevance", "random")
MEASURES = {"deletion": -1, "insertion": 1, "in mask": 1}  # 1 where large is good


def found(detector: Detector, number: int) -> Iterator[dict[str, dict[str, float]]]:
    """What is measured of each map, for the objects of a picture that were found."""
    made = scene(SEED, FIRST + number)
    image = Image.fromarray(made.pixels)
    pixels = prepare(image, detector.preprocessing).to(detector.device)
    inspectable = detector.inspect()
    with inspectable.recorded() as record:
        detector.output([pixels])
    seen = detector.predict(image, threshold=0)
    for label, mask, (x, y, w, h) in zip(made.labels, made.masks, made.boxes, strict=True):
        fits = [
            float(iou(box, torch.tensor([x, y, x + w, y + h]))) if name == DEFAULT[label] and score >= SURE else 0
            for box, name, score in zip(torch.from_numpy(seen.boxes), seen.labels, seen.scores, strict=True)
        ]
        query = int(np.argmax(fits))
        if fits[query] < 0.5:
            continue
        last = inspectable.decoder_layers - 1
        attention = record.cross(last, [query]).density()[0, 0].mean(0).cpu().numpy()  # (h, w)
        relevant = relevance(detector, pixels, [query])[0].cpu().numpy()
        chance = random_maps(record.cells, 1, seed=number)
        measured = deletion_and_insertion(detector, pixels, query, [attention, relevant, *chance])
        covered = mask_coverage(mask, record.cells)
        shares = (attention * covered).sum(), (relevant * covered).sum(), covered.mean()
        yield {
            name: {**{kind: area(scores) for kind, scores in one.items()}, "in mask": float(share)}
            for name, one, share in zip(MAPS, measured, shares, strict=True)
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--objects", type=int, default=200)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    detector = detrcli.load(options.weights, device=options.device)
    if tuple(detector.classes.names) != DEFAULT:
        parser.error(f"these weights are not those of shapes: {', '.join(detector.classes.names)}")

    measured: list[dict[str, dict[str, float]]] = []
    number = 0
    while len(measured) < options.objects:
        measured += found(detector, number)
        number += 1
        if number == 100 and not measured:
            parser.error("these weights find nothing in shapes")
    measured = measured[: options.objects]

    results: dict[str, object] = {"objects": len(measured), "pictures": number}
    print(f"{len(measured)} objects found in {number} pictures")
    print(f"{'':<12}" + "".join(f"{measure:>12}" for measure in MEASURES))
    for name in MAPS:
        means = {measure: float(np.mean([one[name][measure] for one in measured])) for measure in MEASURES}
        results[name] = {measure: round(value, 4) for measure, value in means.items()}
        print(f"{name:<12}" + "".join(f"{value:>12.3f}" for value in means.values()))
    for measure, sign in MEASURES.items():
        gain = sign * np.array([one["relevance"][measure] - one["attention"][measure] for one in measured])
        error = gain.std(ddof=1) / len(gain) ** 0.5
        results[f"relevance better by {measure}"] = {
            "objects": int((gain > 0).sum()), "by": round(float(gain.mean()), 4), "error": round(float(error), 4),
        }  # fmt: skip
        print(f"relevance is better by {measure}: {(gain > 0).sum()} objects, {gain.mean():+.3f} ± {error:.3f}")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
