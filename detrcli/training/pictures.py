"""What the model saw and what it says, drawn."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from detrcli.boxes import to_pixels
from detrcli.config import Preprocessing
from detrcli.data.checks import Split
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

MOST = 8  # pictures on a sheet
SURE = 0.5  # score of the predictions that are drawn


def first_batch(examples: Examples, classes: Classes, preprocessing: Preprocessing) -> Image.Image:
    """The pictures of a batch as the network gets them, padding left out, with their targets."""
    padding = examples.batch.padding
    cells = []
    for i, (pixels, target, image_id) in enumerate(
        zip(examples.batch.images[:MOST], examples.targets, examples.image_ids, strict=False)
    ):
        if padding is not None:
            height, width = int((~padding[i, :, 0]).sum()), int((~padding[i, 0]).sum())
            pixels = pixels[:, :height, :width]
        image = as_image(pixels, preprocessing)  # (3, h, w)
        boxes = to_pixels(target.boxes, image.height, image.width)  # (N, 4)
        masks = None if target.masks is None else list(target.masks[:, : image.height, : image.width].numpy())
        marks = marks_of(boxes.tolist(), target.labels.tolist(), classes, masks)
        cells.append((mark(image, marks), f"image {image_id}, {image.width} x {image.height}"))
    return grid_figure(cells, columns=4)


def beside_truth(split: Split, truth: Truth, results: Results) -> Image.Image:
    """Some pictures of a split, each twice: its truth on the left, what is predicted on the right."""
    w = split.written
    masks = None if results.masks is None else truth_masks(truth)
    chosen = np.linspace(0, len(truth.images) - 1, min(MOST, len(truth.images))).round().astype(int)
    names = dict(zip(truth.classes.ids.tolist(), truth.classes.names.tolist(), strict=True))
    cells = []
    for place in chosen.tolist():
        i, image_id = int(truth.images[place]), int(truth.image_ids[place])
        try:
            image = open_image(w.folder / w.files[i], turn=bool(split.turned[i])).image
        except DataError:
            continue  # evaluation has said so
        here = truth.of_image == image_id
        sure = (results.image_ids == image_id) & (results.scores >= SURE)
        wanted = _marks(truth.boxes[here], truth.of_category[here], names)
        found = _marks(results.boxes[sure], results.category_ids[sure], names, results.scores[sure])
        if masks is not None and results.masks is not None:
            wanted, found = _with_masks(wanted, masks[here]), _with_masks(found, results.masks[sure])
        cells += [(mark(image, wanted), f"{w.files[i]}: ground truth"), (mark(image, found), f"score {SURE} or more")]
    return grid_figure(cells, columns=4)


def _with_masks(marks: Sequence[Mark], masks: np.ndarray) -> list[Mark]:
    return [replace(one, mask=pixels_of(mask)) for one, mask in zip(marks, masks, strict=True)]


def _marks(
    boxes: np.ndarray, categories: np.ndarray, names: dict[int, str], scores: np.ndarray | None = None
) -> list[Mark]:
    """Marks at COCO boxes (N, 4)."""
    return [
        Mark((x, y, x + width, y + height), names[category], category, None if scores is None else float(scores[n]))
        for n, ((x, y, width, height), category) in enumerate(zip(boxes.tolist(), categories.tolist(), strict=True))
    ]
