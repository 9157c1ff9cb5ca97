"""A data set that is not `shapes`: letters in Pillow's own font, in COCO layout, with gaps in its ids.

    python examples/letters.py letters
    detr train letters --weights shapes
    detr train letters --model dino-tiny --weights none

It makes 300 pictures for training and 100 for validation, 160 x 128 pixels, one to five letters in each.
`detr guide weights` has a table of what the two trainings reach.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LETTERS = {4: "A", 7: "E", 19: "K", 20: "R", 33: "S", 90: "X"}  # category id -> name
SIZE = (160, 128)
SPLITS = {"train": 300, "val": 100}


def letter(name: str, chance: np.random.Generator) -> Image.Image:
    """A letter as a mask just large enough for it, somewhat turned."""
    font = ImageFont.load_default(int(chance.integers(20, 64)))
    canvas = Image.new("L", (128, 128))
    ImageDraw.Draw(canvas).text((64, 64), name, 255, font, anchor="mm")
    canvas = canvas.rotate(float(chance.uniform(-30, 30)), Image.Resampling.BICUBIC)
    return canvas.crop(canvas.point(lambda value: 255 * (value > 127)).getbbox())


def picture(
    chance: np.random.Generator, names: Mapping[int, str], size: tuple[int, int]
) -> tuple[Image.Image, list[tuple[int, list[int]]]]:
    """Letters apart from each other on a noisy slope of colour; category ids with x, y, width, height."""
    width, height = size
    corners = Image.fromarray(chance.integers(0, 256, (2, 2, 3), dtype=np.uint8))
    ground = np.asarray(corners.resize(size, Image.Resampling.BILINEAR), dtype=int)
    noisy = ground + chance.integers(-12, 13, ground.shape)
    canvas = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    taken = np.zeros((height, width), dtype=bool)
    objects = []
    for _ in range(chance.integers(1, 6)):
        category = int(chance.choice(list(names)))
        mask = letter(names[category], chance)
        x, y = (int(chance.integers(0, room - side + 1)) for room, side in zip(size, mask.size, strict=True))
        place = np.s_[y : y + mask.height, x : x + mask.width]
        if taken[place].any():
            continue
        taken[place] = True
        behind = np.asarray(canvas)[place].reshape(-1, 3).mean(0)
        colour = behind
        while np.abs(colour - behind).sum() < 150:  # that it can be read
            colour = chance.integers(0, 256, 3)
        canvas.paste(tuple(int(value) for value in colour), (x, y), mask)
        objects.append((category, [x, y, mask.width, mask.height]))
    return canvas, objects


def make(
    folder: Path, names: Mapping[int, str] = LETTERS, size: tuple[int, int] = SIZE, splits: Mapping[str, int] = SPLITS
) -> None:
    """Write all splits."""
    chance = np.random.default_rng(0)
    (folder / "annotations").mkdir(parents=True)
    for split, count in splits.items():
        (folder / split).mkdir()
        images, annotations = [], []
        for number in range(count):
            image, objects = picture(chance, names, size)
            file, image_id = f"{number:04}.png", 10 * number + 7
            image.save(folder / split / file)
            images.append({"id": image_id, "file_name": file, "width": image.width, "height": image.height})
            annotations += [
                {
                    "id": 3 * (len(annotations) + i) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
                for i, (category, box) in enumerate(objects)
            ]
        document = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": category, "name": name} for category, name in names.items()],
        }
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document), encoding="utf-8")


def first(images: int, document: Mapping[str, Any]) -> dict[str, Any]:
    """The first images of a COCO document, with their annotations."""
    kept = document["images"][:images]
    ids = {image["id"] for image in kept}
    annotations = [one for one in document["annotations"] if one["image_id"] in ids]
    return {**document, "images": kept, "annotations": annotations}


def side(data: Path) -> int:
    """The shorter side of the pictures of a data set in which all have one size."""
    image = json.loads((data / "annotations" / "instances_train.json").read_text())["images"][0]
    return min(int(image["width"]), int(image["height"]))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/letters.py DIR")
    make(Path(sys.argv[1]))
