"""Images of a split with their ground truth, in a grid."""

import numpy as np
import torch
from PIL import Image

from detrcli.boxes import to_pixels
from detrcli.config import Preprocessing
from detrcli.data.annotations import annotate, classes_in_report
from detrcli.data.augmentation import augment, make_sample, mask_pixels
from detrcli.data.dataset import to_input
from detrcli.data.examine import examine_headers
from detrcli.data.images import open_image
from detrcli.data.preprocessing import as_image
from detrcli.data.splits import DataSource
from detrcli.errors import DataError
from detrcli.render.draw import grid_figure, mark, marks_of
from detrcli.resize import ShortestEdge


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
