"""How a command's memory is held: large blocks are kept for the next picture, and given back once an epoch.

By itself glibc gives large blocks back to the kernel, which then brings every page of them anew, and oneDNN keeps a
compiled primitive for each of the last 1024 shapes that it met. All this is glibc's: elsewhere nothing is done.
"""

import os
from collections.abc import Mapping
from functools import cache
from typing import Any

# Of glibc's mallopt: the number that <malloc.h> gives it, and what it is set to.
OPTIONS: Mapping[str, tuple[int, int]] = {
    "mmap_threshold": (-3, 1 << 30),  # blocks up to so many bytes come from the heap, which keeps their pages
    "trim_threshold": (-1, (1 << 31) - 1),  # the heap's end is not given back at each free
    "top_pad": (-2, 64 << 20),  # and grows by large steps
}
PRIMITIVES = "128"  # of oneDNN, as text; a step of training detr-r50 on one size takes 79


def keep_large_blocks() -> None:
    """Set up this process, before torch is imported; what the user's environment says of it stands."""
    if not _is_glibc():
        return
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", PRIMITIVES)
    for name, (number, value) in OPTIONS.items():
        if not _is_set(name):
            _libc().mallopt(number, value)


def give_back() -> None:
    """Give to the kernel what is free by now, between blocks too: no large picture's share is held for ever."""
    if _is_glibc():
        _libc().malloc_trim(0)


def _is_set(name: str) -> bool:
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return f"MALLOC_{name.upper()}_" in os.environ or f"glibc.malloc.{name}=" in tunables


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):  # Windows; macOS; musl
        return False


@cache
def _libc() -> Any:
    import ctypes  # slow to import, and on the way of every command

    return ctypes.CDLL(None)
