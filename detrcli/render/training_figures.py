"""Figures of a training: its first batch, and predictions beside the ground truth."""

from dataclasses import replace

import numpy as np
from PIL import Image

from detrcli.boxes import to_pixels
from detrcli.config import Preprocessing
from detrcli.data.dataset import Examples
from detrcli.data.images import open_image
from detrcli.data.preprocessing import as_image
from detrcli.errors import DataError
from detrcli.evaluation.masks import truth_masks
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import Truth
from detrcli.render.draw import Mark, grid_figure, mark, marks_of
from detrcli.run_lengths import pixels_of
from detrcli.structures import Classes

MAX_IMAGES = 8
MIN_SCORE = 0.5  # of the predictions that are drawn


def first_batch(examples: Examples, classes: Classes, preprocessing: Preprocessing) -> Image.Image:
    """Draw the images of a batch as the network's input, without padding, with their targets."""
    padding = examples.batch.padding
    cells = []
    for i, (pixels, target, image_id) in enumerate(
        zip(examples.batch.images[:MAX_IMAGES], examples.targets, examples.image_ids, strict=False)
    ):
        if padding is not None:
            height, width = int((~padding[i, :, 0]).sum()), int((~padding[i, 0]).sum())
            pixels = pixels[:, :height, :width]
        image = as_image(pixels, preprocessing)  # from (3, h, w)
        boxes = to_pixels(target.boxes, image.height, image.width)  # (N, 4)
        masks = None if target.masks is None else list(target.masks[:, : image.height, : image.width].numpy())
        marks = marks_of(boxes.tolist(), target.labels.tolist(), classes, masks)
        cells.append((mark(image, marks), f"image {image_id}, {image.width} x {image.height}"))
    return grid_figure(cells, columns=4)


def beside_truth(truth: Truth, results: Results) -> Image.Image:
    """Draw some images twice: with the ground truth, and with the predictions."""
    split, masks = truth.split, None if results.masks is None else truth_masks(truth)
    cells = []
    for index in np.linspace(0, len(truth.images) - 1, min(MAX_IMAGES, len(truth.images))).round().astype(int):
        i, image_id = truth.images[index], truth.image_ids[index]
        file = split.written.files[i]
        try:
            image = open_image(split.written.folder / file, turn=bool(split.turned[i])).image
        except DataError:
            continue  # reported by the evaluation
        own = truth.of_image == image_id
        objects = _marks(truth.boxes[own], truth.of_category[own], truth.classes, None if masks is None else masks[own])
        detected = results.part((results.image_ids == image_id) & (results.scores >= MIN_SCORE))
        shown_masks = None if masks is None else detected.masks
        detections = [
            replace(detection, score=score)
            for detection, score in zip(
                _marks(detected.boxes, detected.category_ids, truth.classes, shown_masks),
                detected.scores.tolist(),
                strict=True,
            )
        ]
        cells.append((mark(image, objects), f"{file}: ground truth"))
        cells.append((mark(image, detections), f"predictions, score >= {MIN_SCORE}"))
    return grid_figure(cells, columns=4)


def _marks(boxes: np.ndarray, categories: np.ndarray, classes: Classes, masks: np.ndarray | None) -> list[Mark]:
    """Return marks at boxes x, y, width, height (N, 4) with masks (N,) of RunLengths."""
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    labels = np.searchsorted(classes.ids, categories).tolist()
    return marks_of(corners.tolist(), labels, classes, None if masks is None else map(pixels_of, masks))
