"""Memory settings of glibc and oneDNN for `detr` commands, which save time and memory and change no result.

Training on images of many sizes allocates large blocks of ever new sizes. By default glibc returns each of them to the
kernel, which has to map every page again, and oneDNN caches a compiled primitive for each of the last 1024 shapes.
Commands therefore keep large blocks, limit oneDNN's cache, and release free memory once per epoch
(`examples/training_memory.py` measures the effect). Other systems, and imports from Python, are not affected.
Without this file commands would take more time and memory, and nothing else would change.
Tests: tests/system/test_allocator.py.
"""

import os
from collections.abc import Mapping
from functools import cache
from typing import Any

# mallopt's options: their numbers in <malloc.h>, and the values to set.
OPTIONS: Mapping[str, tuple[int, int]] = {
    "mmap_threshold": (-3, 1 << 30),  # blocks up to this size come from the heap, which keeps their pages
    "trim_threshold": (-1, (1 << 31) - 1),  # the end of the heap is not returned at each free
    "top_pad": (-2, 64 << 20),  # the heap grows in large steps
}
PRIMITIVES = "128"  # capacity of oneDNN's cache; a training step of detr-r50 at a single size takes 79


def keep_large_blocks() -> None:
    """Set up this process, before torch is imported; settings in the user's environment take precedence."""
    if not _is_glibc():
        return
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", PRIMITIVES)
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    for name, (number, value) in OPTIONS.items():
        if f"MALLOC_{name.upper()}_" not in os.environ and f"glibc.malloc.{name}=" not in tunables:
            _libc().mallopt(number, value)


def release_free_memory() -> None:
    """Return free memory to the kernel, including that between blocks in use."""
    if _is_glibc():
        _libc().malloc_trim(0)


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):  # Windows; macOS; musl
        return False


@cache
def _libc() -> Any:
    import ctypes  # slow to import, and every command imports this module

    return ctypes.CDLL(None)
