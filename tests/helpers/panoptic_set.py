"""Small COCO panoptic data of two splits."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Document = dict[str, Any]
HEIGHT, WIDTH = 40, 60
CATEGORIES = [  # ids that jump, in an order of their own
    {"id": 9, "name": "sky", "supercategory": "outdoor", "isthing": 0},
    {"id": 1, "name": "cat", "supercategory": "animal", "isthing": 1},
    {"id": 4, "name": "dog", "supercategory": "animal", "isthing": 1},
]


@dataclass(frozen=True)
class Segment:
    """A rectangle of a map, with its color."""

    red: int
    green: int
    blue: int
    category: int
    rows: slice
    columns: slice
    crowd: bool = False

    @property
    def id(self) -> int:
        return self.red + 256 * self.green + 65536 * self.blue


ALL = slice(None)
# Later segments cover earlier ones. Ids need all three channels, and repeat in other images.
IMAGES = {
    "train": {
        "a.jpg": [
            Segment(5, 0, 0, 9, ALL, ALL),
            Segment(0, 7, 0, 1, slice(10, 20), slice(5, 25)),
            Segment(1, 2, 3, 4, slice(15, 35), slice(20, 50)),
            Segment(255, 255, 255, 4, slice(0, 4), slice(50, 60), crowd=True),
        ],
        "b.jpg": [Segment(5, 0, 0, 9, slice(0, 30), ALL), Segment(0, 0, 1, 1, slice(30, 40), slice(0, 9))],
    },
    "val": {"c.jpg": [Segment(9, 9, 9, 9, slice(0, 20), ALL), Segment(0, 7, 0, 4, slice(20, 40), ALL)]},
}


def colors_of(segments: list[Segment]) -> np.ndarray:
    """A map (H, W, 3), drawn without computing ids."""
    drawn = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    for segment in segments:
        drawn[segment.rows, segment.columns] = segment.red, segment.green, segment.blue
    return drawn


def mask_of(segments: list[Segment], number: int) -> np.ndarray:
    """The visible pixels of a segment, (H, W)."""
    segment = segments[number]
    return (colors_of(segments) == (segment.red, segment.green, segment.blue)).all(-1)


def document_of(split: str) -> Document:
    """The JSON of a split; images have ids of ten digits."""
    images, annotations = [], []
    for number, (file, segments) in enumerate(IMAGES[split].items()):
        image = 4_000_000_000 + 7 * number + (split == "val")
        images.append({"id": image, "file_name": file, "width": WIDTH, "height": HEIGHT})
        infos = []
        for i, segment in enumerate(segments):
            rows, columns = np.nonzero(mask_of(segments, i))
            box = [int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
            info = {"id": segment.id, "category_id": segment.category, "iscrowd": int(segment.crowd)}
            infos.append({**info, "area": len(rows), "bbox": box})
        annotations.append({"image_id": image, "file_name": file.replace("jpg", "png"), "segments_info": infos})
    return {"images": images, "annotations": annotations[::-1], "categories": CATEGORIES}


def write(root: Path, *, beside_images: bool = False, year: str = "2017") -> Path:
    """Write the dataset, with the folders of maps beside the JSON, as in COCO's archive, or beside the images."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, images in IMAGES.items():
        maps = (root if beside_images else root / "annotations") / f"panoptic_{split}{year}"
        for folder in (root / f"{split}{year}", maps):
            folder.mkdir(parents=True, exist_ok=True)
        for number, (file, segments) in enumerate(images.items()):
            noise = np.random.default_rng([number, split == "val"]).integers(0, 256, (8, 12, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((WIDTH, HEIGHT)).save(root / f"{split}{year}" / file)
            Image.fromarray(colors_of(segments)).save(maps / file.replace("jpg", "png"))
        path = root / "annotations" / f"panoptic_{split}{year}.json"
        path.write_text(json.dumps(document_of(split)))
    return root
