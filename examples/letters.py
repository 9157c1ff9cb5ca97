"""Generate a small dataset of letters in COCO layout, with gaps in its ids.

    python examples/letters.py letters
    detr train letters --weights shapes
    detr train letters --model dino-tiny --weights none

Writes 300 training and 100 validation images of 160 x 128 pixels with one to five letters in Pillow's default font.
`detr guide weights` lists the results of both trainings.
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


def draw_letter(name: str, rng: np.random.Generator) -> Image.Image:
    """Return a slightly rotated letter as a tightly cropped mask."""
    font = ImageFont.load_default(int(rng.integers(20, 64)))
    canvas = Image.new("L", (128, 128))
    ImageDraw.Draw(canvas).text((64, 64), name, 255, font, anchor="mm")
    canvas = canvas.rotate(float(rng.uniform(-30, 30)), Image.Resampling.BICUBIC)
    return canvas.crop(canvas.point(lambda value: 255 * (value > 127)).getbbox())


def draw_image(
    rng: np.random.Generator, names: Mapping[int, str], size: tuple[int, int]
) -> tuple[Image.Image, list[tuple[int, list[int]]]]:
    """Draw letters that do not overlap on a noisy gradient; return category ids with x, y, width, height."""
    width, height = size
    corners = Image.fromarray(rng.integers(0, 256, (2, 2, 3), dtype=np.uint8))
    gradient = np.asarray(corners.resize(size, Image.Resampling.BILINEAR), dtype=int)
    noisy = gradient + rng.integers(-12, 13, gradient.shape)
    canvas = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    taken = np.zeros((height, width), dtype=bool)
    objects = []
    for _ in range(rng.integers(1, 6)):
        category = int(rng.choice(list(names)))
        mask = draw_letter(names[category], rng)
        x, y = (int(rng.integers(0, room - side + 1)) for room, side in zip(size, mask.size, strict=True))
        place = np.s_[y : y + mask.height, x : x + mask.width]
        if taken[place].any():
            continue
        taken[place] = True
        background = np.asarray(canvas)[place].reshape(-1, 3).mean(0)
        color = background
        while np.abs(color - background).sum() < 150:  # ensure contrast
            color = rng.integers(0, 256, 3)
        canvas.paste(tuple(int(value) for value in color), (x, y), mask)
        objects.append((category, [x, y, mask.width, mask.height]))
    return canvas, objects


def make(
    folder: Path, names: Mapping[int, str] = LETTERS, size: tuple[int, int] = SIZE, splits: Mapping[str, int] = SPLITS
) -> None:
    """Write all splits."""
    rng = np.random.default_rng(0)
    (folder / "annotations").mkdir(parents=True)
    for split, count in splits.items():
        (folder / split).mkdir()
        images, annotations = [], []
        for number in range(count):
            image, objects = draw_image(rng, names, size)
            file, image_id = f"{number:04}.png", 10 * number + 7
            image.save(folder / split / file)
            images.append({"id": image_id, "file_name": file, "width": image.width, "height": image.height})
            annotations += [
                {"id": 3 * (len(annotations) + i) + 1, "image_id": image_id, "category_id": category,
                 "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
                for i, (category, box) in enumerate(objects)
            ]  # fmt: skip
        categories = [{"id": category, "name": name} for category, name in names.items()]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document), encoding="utf-8")


def first(images: int, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first images of a COCO document, with their annotations."""
    kept = document["images"][:images]
    ids = {image["id"] for image in kept}
    annotations = [annotation for annotation in document["annotations"] if annotation["image_id"] in ids]
    return {**document, "images": kept, "annotations": annotations}


def side(data: Path) -> int:
    """Return the shorter side of the images of a dataset whose images have equal sizes."""
    image = json.loads((data / "annotations" / "instances_train.json").read_text())["images"][0]
    return min(int(image["width"]), int(image["height"]))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/letters.py DIR")
    make(Path(sys.argv[1]))
