"""Pictures decoded whole: whether each one can be, and what it looks like in a few bits."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from detrcli.data.images import open_picture
from detrcli.errors import DataError

PATIENCE = 60.0  # seconds that decoding everything may take without being asked for
GRID = 16  # brightness is compared along a grid of GRID x GRID
ALIKE = 10  # bits of GRID * GRID that may differ between pictures that look the same


@dataclass(frozen=True)
class DecodedPicture:
    """A picture's perceptual hash, or why it cannot be decoded."""

    bits: np.ndarray | None  # (GRID * GRID / 64,) uint64
    problem: str | None = None


def decode(path: Path) -> DecodedPicture:
    """Decode one picture."""
    try:
        return DecodedPicture(perceptual_hash(open_picture(path).image))
    except DataError as error:
        return DecodedPicture(None, str(error))


def perceptual_hash(image: Image.Image) -> np.ndarray:
    """Whether each cell of a coarse grey picture is brighter than its left neighbour."""
    cells = np.asarray(image.convert("L").resize((GRID + 1, GRID), Image.Resampling.BILINEAR), dtype=np.int16)
    return np.packbits(cells[:, 1:] > cells[:, :-1]).view(np.uint64)


def decode_all(paths: Sequence[Path], *, full: bool, advance: Callable[[], None]) -> list[DecodedPicture] | None:
    """Decode every picture, in parallel; None where that would take too long and was not asked for."""
    workers = os.cpu_count() or 1
    sample = paths[:: max(1, len(paths) // 8)][:8]
    start = time.perf_counter()
    for path in sample:
        decode(path)
    expected = (time.perf_counter() - start) / max(len(sample), 1) * len(paths) / workers
    if expected > PATIENCE and not full:
        return None

    def work(path: Path) -> DecodedPicture:
        decoded = decode(path)
        advance()
        return decoded

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, paths))


def alike(a: Sequence[DecodedPicture], b: Sequence[DecodedPicture]) -> list[tuple[int, int]]:
    """For each picture of `b` that looks like one of `a`: their places, the most alike of `a` first taken.

    A picture without any structure (all cells as bright as their neighbours) looks like nothing.
    """
    hashes_a, places_a = _hashes(a)
    hashes_b, places_b = _hashes(b)
    pairs: list[tuple[int, int]] = []
    if not len(hashes_a):
        return pairs
    for bits, place in zip(hashes_b, places_b, strict=True):
        distance = np.bitwise_count(hashes_a ^ bits).sum(1)
        nearest = int(distance.argmin())
        if distance[nearest] <= ALIKE:
            pairs.append((places_a[nearest], place))
    return pairs


def _hashes(pictures: Sequence[DecodedPicture]) -> tuple[np.ndarray, list[int]]:
    places = [
        i for i, seen in enumerate(pictures) if seen.bits is not None and np.bitwise_count(seen.bits).sum() > ALIKE
    ]
    bits = [bits for i in places if (bits := pictures[i].bits) is not None]
    return np.array(bits, dtype=np.uint64).reshape(len(places), GRID * GRID // 64), places
