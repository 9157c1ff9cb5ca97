"""Pictures of a split with their ground truth, side by side."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detrcli.boxes import to_pixels
from detrcli.config import Preprocessing
from detrcli.data.annotations import annotate, classes_in_report
from detrcli.data.augmentation import Sample, augment, make_sample
from detrcli.data.dataset import to_input
from detrcli.data.examine import examine_headers
from detrcli.data.images import open_image
from detrcli.data.lazy_masks import mask_pixels
from detrcli.data.preprocessing import as_image
from detrcli.data.splits import DataSource
from detrcli.errors import DataError
from detrcli.render.draw import grid_figure, mark, marks_of
from detrcli.resize import ShortestEdge


def ground_truth_figure(
    source: DataSource, split: str, images: int, seed: int, augmented: int | None, *, masks: bool = False
) -> Image.Image:
    """Some pictures of a split with their boxes, or with the masks that all objects must have then.

    `augmented` is the size for which training would augment them.
    """
    examined = examine_headers(source, [split])
    classes = classes_in_report(examined)
    annotations = annotate(examined.splits[split], classes, masks=masks)
    chosen = np.random.default_rng(seed).permutation(len(annotations))[:images]
    chance = torch.Generator().manual_seed(seed)

    if not len(annotations):
        raise DataError(f"There are no pictures in {split} that can be shown. `detr data check` says why.")
    cells = []
    for i in sorted(chosen.tolist()):
        path = annotations.path(i)
        try:
            image = open_image(path, turn=bool(annotations.turned[i])).image
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        seen = make_sample(image, annotations.objects(i), annotations.masks(i))
        boxes, drawn = seen.boxes, _pixels(path, seen, image)
        if augmented is not None:
            published = Preprocessing(ShortestEdge().grown(augmented))
            seen, preprocessing = augment(seen, published, chance)
            pixels, target = to_input(seen, preprocessing)
            image = as_image(pixels, preprocessing)
            boxes, drawn = to_pixels(target.boxes, image.height, image.width), target.masks
        marks = marks_of(boxes.tolist(), seen.labels.tolist(), classes, None if drawn is None else list(drawn.numpy()))
        caption = Path(path).name if marks else f"{Path(path).name} (no objects)"
        cells.append((mark(image, marks), caption))
    return grid_figure(cells)


def _pixels(path: Path, seen: Sample, image: Image.Image) -> Tensor | None:
    """The masks on the picture as it is, (N, H, W) bool."""
    if seen.masks is None:
        return None
    try:
        return mask_pixels(seen.masks, image.height, image.width)
    except ValueError as error:  # of an outline
        raise DataError(f"{path}: {error}") from None
