"""Image files by argument, and paths in datasets."""

import glob
import os
import posixpath
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})


def find_images(arguments: Iterable[str]) -> Iterator[tuple[Path, Path]]:
    """Yield images by file, folder (recursively) or pattern, in the order of the arguments, sorted in each.

    Each comes with its path relative to the folder given as argument, or the file name for a file given by itself.
    Names that do not exist are yielded too, and fail when they are opened.
    """
    for argument in arguments:
        pattern = glob.has_magic(argument) and not os.path.exists(argument)
        matches = sorted(Path(name) for name in glob.glob(argument, recursive=True)) if pattern else []
        for path in matches or [Path(argument)]:
            inside = sorted(_files_below(path)) if os.path.isdir(path) else []
            yield from ((file, file.relative_to(path)) for file in inside)
            if not inside:
                yield path, Path(path.name)


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield files with an image's suffix, dangling links included, and unreadable folders.

    Hidden files and folders (macOS writes ._photo.jpg) and linked folders are ignored.
    """
    unreadable: list[Path] = []
    for place, folders, files in os.walk(folder, onerror=lambda error: unreadable.append(Path(error.filename))):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                yield Path(place, name)
    yield from unreadable


def folder_of(data: Path) -> Path:
    """Return the folder of a dataset given by its folder or by a file in it; COCO's files are in annotations/."""
    if not os.path.isfile(data):
        return data
    folder = data.absolute().parent
    return folder.parent if folder.name == "annotations" else data.parent


def lies_inside(folder: Path, file: str) -> bool:
    """Return whether a file name with / stays inside the folder, on every operating system."""
    path = posixpath.normpath(file)
    if posixpath.isabs(path) or path == ".." or path.startswith("../") or path[1:3] == ":/":
        return False
    # After a link, .. is relative to the link's target.
    return ".." not in file.split("/") or os.path.realpath(folder / file) == os.path.realpath(folder / path)


def is_web_address(path: Path) -> bool:
    """Return whether a path was a URL, whose two slashes `Path` merges."""
    return re.match(r"(https?|ftp|s3|gs):/", str(path)) is not None
