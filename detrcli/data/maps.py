"""Panoptic maps as COCO has them: a PNG a picture, in which the colour of a pixel is the id of its segment."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import UnidentifiedImageError

from detrcli.data.images import opened
from detrcli.data.place import folder_of
from detrcli.errors import DataError
from detrcli.system.text import escape_controls

NOBODY = 0  # the id of pixels that belong to no segment
# How the outline of a segment begins, as no JSON does: no annotation file names maps of its own.
HEAD = b"map "


@dataclass(frozen=True)
class PanopticMaps:
    """Where the maps of a split lie, and the colours of its N segments."""

    folder: Path  # which file names may not leave
    files: Mapping[int, str]  # an image's id to its map, with /
    segment_ids: np.ndarray  # (N,) int64, of the annotations; unique in their image

    def part(self, chosen: np.ndarray) -> "PanopticMaps":
        """With some of the segments."""
        return replace(self, segment_ids=self.segment_ids[chosen])

    def outlines(self, of_image: np.ndarray) -> list[bytes]:
        """What `segment_of` makes masks of, a text for each of the segments of these images (N,)."""
        folder = os.fsencode(self.folder.absolute())
        places = {image: os.path.join(folder, os.fsencode(file)) for image, file in self.files.items()}
        return [
            HEAD + b"%d " % segment + places[image]
            for image, segment in zip(of_image.tolist(), self.segment_ids.tolist(), strict=True)
        ]


def as_ids(colours: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3) uint8 as ids (H, W) int32: red + 256 green + 65536 blue."""
    ids: np.ndarray = colours[..., 2].astype(np.int32)
    for channel in (1, 0):  # in place: pictures are large
        ids *= 256
        ids += colours[..., channel]
    return ids


def as_colours(ids: np.ndarray) -> np.ndarray:
    """Ids (H, W) as colours (H, W, 3) uint8."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)


def places_of_maps(annotations: Path) -> Sequence[Path]:
    """Where the maps of an annotation file may lie: in the folder of its name, beside it or beside the pictures'."""
    name = annotations.stem
    return list(dict.fromkeys([annotations.parent / name, folder_of(annotations) / name]))


def read_map(path: Path, height: int, width: int) -> np.ndarray:
    """The ids (H, W) int32 of a picture of this size; a DataError that says what is wrong with its map."""
    try:
        with opened(path) as image:
            if (image.height, image.width) != (height, width):
                raise DataError(f"its map is {image.width} x {image.height}, the picture {width} x {height}")
            if image.format != "PNG" or image.mode not in ("RGB", "RGBA", "P"):
                raise DataError(f"its map is no PNG of three colours ({image.format}, {image.mode})")
            return as_ids(np.asarray(image.convert("RGB")))
    except DataError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"its map {path} is not there") from None
    except UnidentifiedImageError:
        raise DataError(f"its map {path} is no PNG") from None
    except Exception as error:  # there is nothing that Pillow's decoders do not raise for a broken file
        raise DataError(
            f"its map {path} cannot be decoded ({escape_controls(str(error)) or type(error).__name__})"
        ) from None


def segment_of(outline: bytes, height: int, width: int) -> np.ndarray:
    """The pixels of a segment, (H, W) bool; a ValueError that says what is wrong."""
    _, number, place = outline.split(b" ", 2)
    path = os.fsdecode(place)
    try:
        changed = os.stat(path).st_mtime_ns
        mask: np.ndarray = _read_lately(path, changed, height, width) == int(number)
    except OSError:
        raise ValueError(f"its map {path} is not there") from None
    except DataError as error:
        raise ValueError(str(error)) from None
    return mask


@lru_cache(maxsize=2)  # the segments of a picture come one after the other
def _read_lately(path: str, changed: int, height: int, width: int) -> np.ndarray:
    return read_map(Path(path), height, width)
