"""Sheets of pictures that commands draw."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detrcli.config import Preprocessing
from detrcli.data.annotations import annotate, classes_of
from detrcli.data.augmentation import augment, view
from detrcli.data.examine import headers_only
from detrcli.data.images import open_picture
from detrcli.data.source import Source
from detrcli.errors import DataError
from detrcli.render.draw import mark, marks_of, sheet


def truth_sheet(source: Source, split: str, images: int, seed: int, augmented: int | None) -> Image.Image:
    """Some pictures of a split with their boxes; `augmented` is the size for which training would augment them."""
    examined = headers_only(source, [split])
    classes = classes_of(examined)
    annotations = annotate(examined.splits[split], classes)
    chosen = np.random.default_rng(seed).permutation(len(annotations))[:images]
    chance = torch.Generator().manual_seed(seed)

    if not len(annotations):
        raise DataError(f"There are no pictures in {split} that can be shown. `detr data check` says why.")
    cells = []
    for i in sorted(chosen.tolist()):
        path = annotations.path(i)
        try:
            image = open_picture(path, turn=bool(annotations.turned[i])).image
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        seen = view(image, *annotations.objects(i))
        if augmented is not None:
            seen = augment(
                seen, Preprocessing(size=augmented, max_size=round(augmented * 1333 / 800)), chance
            )
        marks = marks_of(seen.boxes.as_subclass(Tensor).tolist(), seen.labels.tolist(), classes)
        caption = Path(path).name if marks else f"{Path(path).name} (nothing)"
        cells.append((mark(seen.image, marks), caption))
    return sheet(cells)
