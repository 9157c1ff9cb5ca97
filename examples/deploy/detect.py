"""Detect objects with a model from `detr export --format onnx`. Needs only onnxruntime, NumPy and Pillow.

    python detect.py model.onnx img.jpg --threshold 0.7 --out out.png

Prints a line for each detection: class, score, and x0, y0, x1, y1 in pixels. `detr guide deploy` documents the
description in the file that is followed here.
"""

import argparse
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageOps


def input_size(rule: dict, width: int, height: int) -> tuple[int, int]:
    """Return width and height of the input for an image of this size."""
    if rule["rule"] == "exact-size":
        return rule["width"], rule["height"]
    if rule["rule"] == "fit-inside":
        scale = min(rule["height"] / height, rule["width"] / width)
        return max(1, int(width * scale)), max(1, int(height * scale))
    short, long, size, divisor = min(width, height), max(width, height), rule["size"], rule["divisor"]
    scale = rule["max_size"] * short / long if long / short * size > rule["max_size"] else float(size)
    edge = round(scale)
    if rule["rule"] == "shortest-edge":
        sides = (edge, int(edge * long / short)) if edge >= 1 else (1, rule["max_size"])
        short, long = (max(1, round(side / divisor)) * divisor for side in sides)
    else:  # bounded-edges, raised-edges
        sides = edge, int(long if short == edge else scale * long / short)
        up = divisor - 1 if rule["rule"] == "raised-edges" else 0
        short, long = (max(1, (max(1, side) + up) // divisor * divisor) for side in sides)
    return (short, long) if width <= height else (long, short)


def interpolation(length: int, new: int, antialias: bool) -> np.ndarray:
    """Return the weights (new, length) of bilinear interpolation from one number of pixels to another."""
    centers = (np.arange(new) + 0.5) * length / new - 0.5
    radius = max(1.0, length / new) if antialias else 1.0
    if not antialias:
        centers = centers.clip(0, length - 1)
    weights = np.maximum(0, 1 - abs(np.arange(length) - centers[:, None]) / radius)
    return weights / weights.sum(1, keepdims=True)


def preprocess(image: Image.Image, spec: dict) -> np.ndarray:
    """Return the input (1, 3, height, width) for an image."""
    size, resize = input_size(spec["size"], *image.size), spec["resize"]
    if spec["pad"] or resize["blur"]:
        raise SystemExit("Models that pad or blur images are not supported.")
    if resize["values"] == "uint8" and resize["antialias"]:
        pixels = np.asarray(image.resize(size, Image.Resampling[resize["filter"].upper()]))
    elif resize["filter"] == "bilinear":
        across, down = (interpolation(*pair, resize["antialias"]) for pair in zip(image.size, size, strict=True))
        pixels = np.einsum("yh,hwc,xw->yxc", down, np.asarray(image, float), across, optimize=True)
    else:
        raise SystemExit(f"The filter {resize['filter']} without antialiasing is not supported.")
    pixels = (pixels * spec["rescale"] - spec["mean"]) / spec["std"]
    return pixels.transpose(2, 0, 1)[None].astype(np.float32)


def detect(logits: np.ndarray, boxes: np.ndarray, model: dict, size: tuple[int, int]) -> list[tuple]:
    """Return the detections of an image as (class name, score, box), by descending score."""
    scoring = model["scoring"]
    if scoring["function"] == "softmax":
        scores = np.exp(logits - logits.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
    else:
        scores = 1 / (1 + np.exp(-logits))
    scores = scores[:, : scoring["no_object"]]  # (queries, classes)
    if scoring["select"] == "queries":
        scores = np.where(scores == scores.max(-1, keepdims=True), scores, -1)
    order = np.argsort(-scores, axis=None, kind="stable")[: scoring["count"]]
    cx, cy, w, h = boxes.T
    corners = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], -1)
    if model["boxes"]["clip"]:
        corners = corners.clip(0, 1)
    corners = corners * (size * 2)
    names = [entry["name"] for entry in model["classes"]]
    pairs = zip(*np.unravel_index(order, scores.shape), strict=True)
    return [(names[label], float(scores[query, label]), corners[query].tolist()) for query, label in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("image")
    parser.add_argument("--threshold", type=float, default=0.7)
    parser.add_argument("--out", help="an image file for the drawing")
    args = parser.parse_args()
    session = onnxruntime.InferenceSession(args.model, providers=["CPUExecutionProvider"])
    model = json.loads(session.get_modelmeta().custom_metadata_map.get("detector", "{}"))
    if "scoring" not in model:
        raise SystemExit(f"{args.model}: not written by `detr export --format onnx`, or with postprocessing.")
    image = ImageOps.exif_transpose(Image.open(args.image)).convert("RGB")
    logits, boxes = session.run(["logits", "boxes"], {"images": preprocess(image, model["input"])})
    draw = ImageDraw.Draw(image)
    for name, score, box in detect(logits[0], boxes[0], model, image.size):
        if score >= args.threshold:
            print(f"{name}\t{score:.4f}\t" + "\t".join(f"{side:.2f}" for side in box))
            draw.rectangle(box, outline="red", width=2)
            draw.text(box[:2], f"{name} {score:.2f}", "white", stroke_width=2, stroke_fill="black")
    if args.out:
        image.save(args.out)


if __name__ == "__main__":
    main()
