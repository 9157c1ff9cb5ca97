"""Reading many image files: their headers, cached between runs, and their pixels, for decoding and duplicate checks."""

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from PIL import ExifTags, Image

from detrcli.data.images import MISSING, UPRIGHT, image_errors, open_image, opened
from detrcli.errors import DataError
from detrcli.reporter import SILENT, Reporter
from detrcli.system.files import cache_folder, write_whole

SIDEWAYS = frozenset({5, 6, 7, 8})  # the EXIF orientations that exchange width and height
T = TypeVar("T")
R = TypeVar("R")

TIME_LIMIT = 60.0  # seconds that an unrequested check of all pixels may take
GRID = 16  # perceptual hashes compare brightness along a grid of GRID x GRID cells
MAX_DISTANCE = 10  # bits of GRID * GRID that may differ between near-duplicates


class Header(msgspec.Struct, frozen=True, array_like=True):
    """Width, height and EXIF orientation of an image file as stored, or the reason why it cannot be read."""

    width: int = 0
    height: int = 0
    orientation: int = UPRIGHT
    problem: str | None = None

    @property
    def stored(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def displayed(self) -> tuple[int, int]:
        return self.stored[::-1] if self.orientation in SIDEWAYS else self.stored


def read_header(path: Path) -> Header:
    try:
        with image_errors(path), opened(path) as image:
            orientation = UPRIGHT
            with suppress(Exception):  # malformed EXIF
                orientation = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
            # Pillow rotates a TIFF by itself, and reports the rotated size.
            rotated = orientation in range(1, 9) and image.format != "TIFF"
            return Header(image.width, image.height, orientation if rotated else UPRIGHT)
    except DataError as error:
        return Header(problem=str(error))


def read_headers(folder: Path, files: Sequence[str]) -> list[Header]:
    """Read the headers of files below a folder in parallel; those of unchanged files come from the user's cache."""
    cache = cache_folder() / "headers" / f"{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:24]}.msgpack"
    try:
        # File name -> size, modification time, header.
        cached = msgspec.msgpack.decode(cache.read_bytes(), type=dict[str, tuple[int, int, Header]])
    except (OSError, msgspec.MsgspecError):
        cached = {}

    def read(file: str) -> tuple[int, int, Header]:
        path = folder / file
        try:
            status = path.stat()
        except (OSError, ValueError):
            return -1, -1, Header(problem=MISSING)
        entry = cached.get(file)
        if entry and entry[:2] == (status.st_size, status.st_mtime_ns):
            return entry
        return status.st_size, status.st_mtime_ns, read_header(path)

    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        entries = list(pool.map(read, files, chunksize=64))
    # A problem, such as a missing permission, may disappear without a change of the file, so it is not cached.
    readable = {file: entry for file, entry in zip(files, entries, strict=True) if entry[2].problem is None}
    if any(cached.get(file) != entry for file, entry in readable.items()):
        with suppress(OSError, UnicodeEncodeError):  # without a cache, headers are read in every run
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_whole(cache, msgspec.msgpack.encode(cached | readable))
    return [header for *_, header in entries]


def decode(path: Path) -> np.ndarray | str:
    """Decode an image file. Return its perceptual hash (GRID * GRID / 64,) uint64, or the reason for a failure.

    The hash has a bit for each cell of a coarse grid: whether it is brighter than its left neighbor.
    """
    try:
        image = open_image(path).image
    except DataError as error:
        return str(error)
    cells = np.asarray(image.convert("L").resize((GRID + 1, GRID), Image.Resampling.BILINEAR), dtype=np.int16)
    return np.packbits(cells[:, 1:] > cells[:, :-1]).view(np.uint64)


def map_images(
    work: Callable[[T], R], images: Sequence[T], what: str, *, full: bool, reporter: Reporter = SILENT
) -> list[R] | None:
    """Map `work` over images in parallel. Return None if that would exceed the time limit and `full` is False."""
    workers, results = os.cpu_count() or 1, []
    with ThreadPoolExecutor(workers) as pool:
        if not full:
            sample = images[:: max(1, len(images) // (4 * workers))]
            start = time.perf_counter()
            list(pool.map(work, sample))
            if (time.perf_counter() - start) / max(len(sample), 1) * len(images) > TIME_LIMIT:
                return None
        with reporter.progress(what, len(images)) as advance:
            for result in pool.map(work, images):
                results.append(result)
                advance(1)
    return results


def near_duplicates(a: Mapping[int, np.ndarray], b: Mapping[int, np.ndarray]) -> list[tuple[int, int]]:
    """Return the most similar image of `a` for each image of `b` that has a near-duplicate there, as pairs of keys.

    An image without structure, whose cells are all equally bright, resembles no other.
    """
    a, b = ({i: bits for i, bits in x.items() if np.bitwise_count(bits).sum() > MAX_DISTANCE} for x in (a, b))
    pairs: list[tuple[int, int]] = []
    if a:
        keys, hashes = list(a), np.stack(list(a.values()))  # (M, GRID * GRID / 64)
        for key, bits in b.items():
            distance = np.bitwise_count(hashes ^ bits).sum(1)
            nearest = int(distance.argmin())
            if distance[nearest] <= MAX_DISTANCE:
                pairs.append((keys[nearest], key))
    return pairs
