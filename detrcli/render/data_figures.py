"""Images of a dataset with their ground truth, of a training batch with its targets, and predictions beside both."""

from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from detrcli.boxes import to_pixels
from detrcli.config import Preprocessing
from detrcli.data.annotations import annotate, classes_in_report
from detrcli.data.augmentation import augment, make_sample, mask_pixels
from detrcli.data.dataset import Examples, to_input
from detrcli.data.examine import examine_headers
from detrcli.data.images import open_image
from detrcli.data.preprocessing import as_image
from detrcli.data.splits import DataSource
from detrcli.errors import DataError
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import Truth, truth_masks
from detrcli.render.draw import Mark, grid_figure, mark, marks_of
from detrcli.resize import ShortestEdge
from detrcli.run_lengths import pixels_of
from detrcli.structures import Classes

MAX_IMAGES = 8
MIN_SCORE = 0.5  # of the predictions that are drawn


def ground_truth_figure(
    source: DataSource, split: str, images: int, seed: int, augmented: int | None, *, masks: bool = False
) -> Image.Image:
    """Return random images of a split with their boxes, or with their masks, which all objects must have then.

    `augmented` is the input size for which training would augment the images.
    """
    examined = examine_headers(source, [split])
    classes = classes_in_report(examined)
    annotations = annotate(examined.splits[split], classes, masks=masks)
    if not len(annotations):
        raise DataError(f"{split} has no usable images. Run `detr data check` for the reasons.")
    chosen = np.random.default_rng(seed).permutation(len(annotations))[:images]
    generator = torch.Generator().manual_seed(seed)
    cells = []
    for i in sorted(chosen.tolist()):
        path = annotations.path(i)
        try:
            image = open_image(path, turn=bool(annotations.turned[i])).image
            example = make_sample(image, annotations.objects(i), annotations.masks(i))
            boxes, labels = example.boxes, example.labels
            drawn = None if example.masks is None else mask_pixels(example.masks, image.height, image.width)
        except (DataError, ValueError) as error:  # ValueError: an invalid mask
            raise DataError(f"{path}: {error}") from None
        if augmented is not None:
            example, preprocessing = augment(example, Preprocessing(ShortestEdge().grown(augmented)), generator)
            pixels, target = to_input(example, preprocessing)
            image = as_image(pixels, preprocessing)
            boxes, labels, drawn = to_pixels(target.boxes, image.height, image.width), target.labels, target.masks
        marks = marks_of(boxes.tolist(), labels.tolist(), classes, None if drawn is None else list(drawn.numpy()))
        cells.append((mark(image, marks), path.name if marks else f"{path.name} (no objects)"))
    return grid_figure(cells)


def first_batch(examples: Examples, classes: Classes, preprocessing: Preprocessing) -> Image.Image:
    """Draw the images of a batch as the network's input, without padding, with their targets."""
    padding, cells = examples.batch.padding, []
    for i, pixels in enumerate(examples.batch.images[:MAX_IMAGES]):
        target = examples.targets[i]
        if padding is not None:
            height, width = int((~padding[i, :, 0]).sum()), int((~padding[i, 0]).sum())
            pixels = pixels[:, :height, :width]
        image = as_image(pixels, preprocessing)  # from (3, h, w)
        boxes = to_pixels(target.boxes, image.height, image.width)  # (N, 4)
        masks = None if target.masks is None else list(target.masks[:, : image.height, : image.width].numpy())
        marks = marks_of(boxes.tolist(), target.labels.tolist(), classes, masks)
        cells.append((mark(image, marks), f"image {examples.image_ids[i]}, {image.width} x {image.height}"))
    return grid_figure(cells)


def predictions_figure(truth: Truth, results: Results) -> Image.Image:
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
        shown = results.part((results.image_ids == image_id) & (results.scores >= MIN_SCORE))
        detected = _marks(shown.boxes, shown.category_ids, truth.classes, None if masks is None else shown.masks)
        detected = [replace(item, score=score) for item, score in zip(detected, shown.scores.tolist(), strict=True)]
        cells.append((mark(image, objects), f"{file}: ground truth"))
        cells.append((mark(image, detected), f"predictions, score >= {MIN_SCORE}"))
    return grid_figure(cells)


def _marks(boxes: np.ndarray, categories: np.ndarray, classes: Classes, masks: np.ndarray | None) -> list[Mark]:
    """Return marks at boxes x, y, width, height (N, 4) with masks (N,) of RunLengths."""
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    labels = np.searchsorted(classes.ids, categories).tolist()
    return marks_of(corners.tolist(), labels, classes, None if masks is None else map(pixels_of, masks))
