"""COCO's panoptic maps: a PNG per image, in which the color of a pixel is the id of its segment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from detrcli.data.images import folder_of, image_errors, opened
from detrcli.errors import DataError

VOID = 0  # the id of pixels that belong to no segment
PREFIX = b"map "  # of a segment's text, which is not valid JSON: no annotation file can name a map to open


@dataclass(frozen=True)
class PanopticMaps:
    """The maps of a split and the ids of its N segments."""

    folder: Path  # which file names may not leave
    files: Mapping[int, str]  # by image id, with /
    segment_ids: np.ndarray  # (N,) int64, unique in their image

    def part(self, chosen: np.ndarray) -> "PanopticMaps":
        return replace(self, segment_ids=self.segment_ids[chosen])

    def texts(self, of_image: np.ndarray) -> list[bytes]:
        """Return a text for each segment, given its image's id (N,), from which `segment_mask` reads its mask."""
        paths = {image: os.fsencode(self.folder.absolute() / file) for image, file in self.files.items()}
        segments = zip(of_image.tolist(), self.segment_ids.tolist(), strict=True)
        return [PREFIX + b"%d " % segment + paths[image] for image, segment in segments]


def rgb_to_ids(colors: np.ndarray) -> np.ndarray:
    """Convert colors (H, W, 3) uint8 to ids (H, W) int32."""
    red, green, blue = np.moveaxis(colors.astype(np.int32), -1, 0)
    ids: np.ndarray = red + 256 * green + 65536 * blue
    return ids


def ids_to_rgb(ids: np.ndarray) -> np.ndarray:
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)


def map_folders(annotations: Path) -> list[Path]:
    """Return the possible folders of an annotation file's maps: named like the file, beside it or the images."""
    return [parent / annotations.stem for parent in dict.fromkeys((annotations.parent, folder_of(annotations)))]


def read_map(path: Path, height: int, width: int) -> np.ndarray:
    """Read the segment ids (H, W) int32 of an image of this size. Raises DataError with the reason."""
    try:
        with image_errors(path), opened(path) as image:
            if (image.height, image.width) != (height, width):
                raise DataError(f"{image.width} x {image.height}, but the image is {width} x {height}")
            if image.format != "PNG" or image.mode not in ("RGB", "RGBA", "P"):
                raise DataError(f"not a PNG with three colors ({image.format}, {image.mode})")
            return rgb_to_ids(np.asarray(image.convert("RGB")))
    except DataError as error:
        raise DataError(f"its map {path}: {error}") from None


def segment_mask(text: bytes, height: int, width: int) -> np.ndarray:
    """Return the pixels (H, W) bool of a segment given by its text. Raises ValueError with the reason."""
    _, segment, file = text.split(b" ", 2)
    path = os.fsdecode(file)
    try:
        mask: np.ndarray = _read_cached(path, os.stat(path).st_mtime_ns, height, width) == int(segment)
    except OSError:
        raise ValueError(f"its map {path} does not exist") from None
    except DataError as error:
        raise ValueError(str(error)) from None
    return mask


@lru_cache(maxsize=2)  # the segments of an image are read one after the other
def _read_cached(path: str, modified: int, height: int, width: int) -> np.ndarray:
    return read_map(Path(path), height, width)
