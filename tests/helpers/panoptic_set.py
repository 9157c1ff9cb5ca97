"""COCO panoptic data of two splits, small enough to be known by heart."""

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
    """A rectangle of a map, with the colour that it is drawn in."""

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
# Later ones cover earlier ones. Ids need each of the three colours, and come again in another picture.
PICTURES = {
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


def colours_of(segments: list[Segment]) -> np.ndarray:
    """A map as it is drawn, (H, W, 3); nothing is computed with its ids."""
    drawn = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    for one in segments:
        drawn[one.rows, one.columns] = one.red, one.green, one.blue
    return drawn


def mask_of(segments: list[Segment], number: int) -> np.ndarray:
    """What can be seen of one of them, (H, W)."""
    one = segments[number]
    return (colours_of(segments) == (one.red, one.green, one.blue)).all(-1)


def document_of(split: str) -> Document:
    """The JSON of a split; images have ids of ten digits."""
    images, annotations = [], []
    for number, (file, segments) in enumerate(PICTURES[split].items()):
        image = 4_000_000_000 + 7 * number + (split == "val")
        images.append({"id": image, "file_name": file, "width": WIDTH, "height": HEIGHT})
        infos = []
        for place, one in enumerate(segments):
            rows, columns = np.nonzero(mask_of(segments, place))
            box = [int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
            infos.append(
                {"id": one.id, "category_id": one.category, "area": len(rows), "bbox": box, "iscrowd": int(one.crowd)}
            )
        annotations.append({"image_id": image, "file_name": file.replace("jpg", "png"), "segments_info": infos})
    return {"images": images, "annotations": annotations[::-1], "categories": CATEGORIES}


def write(root: Path, *, beside_pictures: bool = False, year: str = "2017") -> Path:
    """As COCO has it; the folders of maps beside the JSON, where its archive puts them, or beside the pictures'."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, pictures in PICTURES.items():
        maps = (root if beside_pictures else root / "annotations") / f"panoptic_{split}{year}"
        for folder in (root / f"{split}{year}", maps):
            folder.mkdir(parents=True, exist_ok=True)
        for number, (file, segments) in enumerate(pictures.items()):
            noise = np.random.default_rng([number, split == "val"]).integers(0, 256, (8, 12, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((WIDTH, HEIGHT)).save(root / f"{split}{year}" / file)
            Image.fromarray(colours_of(segments)).save(maps / file.replace("jpg", "png"))
        path = root / "annotations" / f"panoptic_{split}{year}.json"
        path.write_text(json.dumps(document_of(split)))
    return root
