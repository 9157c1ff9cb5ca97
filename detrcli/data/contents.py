"""Whether pictures are those that they were, without reading all of them."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from detrcli.data.annotations import Annotations

PIECE = 4096  # bytes from the middle: no two pictures that are compressed have the same there


def marks_of(annotations: Annotations) -> Tensor:
    """A number for what each picture's file holds, (I,) int64; 0 for one that is not there."""
    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        marks = list(pool.map(_mark, map(annotations.path, range(len(annotations))), chunksize=64))
    return torch.tensor(marks, dtype=torch.int64)


def _mark(path: Path) -> int:
    try:
        with path.open("rb") as file:
            length = os.fstat(file.fileno()).st_size
            file.seek(max(0, (length - PIECE) // 2))
            digest = hashlib.sha256(b"%d " % length + file.read(PIECE)).digest()
    except OSError:
        return 0
    return int.from_bytes(digest[:8], signed=True)
