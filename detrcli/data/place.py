"""Where a data set lies that is named by one of its files, and what lies in it."""

import os
import posixpath
import re
from pathlib import Path


def folder_of(data: Path) -> Path:
    """The folder of a data set, also where a file of it is named; COCO keeps those in annotations/."""
    if not os.path.isfile(data):
        return data
    folder = data.absolute().parent
    return folder.parent if folder.name == "annotations" else data.parent


def lies_inside(folder: Path, file: str) -> bool:
    """Whether a name from a file, with /, leads to nothing outside of the folder, on no operating system."""
    path = posixpath.normpath(file)
    if posixpath.isabs(path) or path == ".." or path.startswith("../") or path[1:3] == ":/":
        return False
    # Behind a link, .. is beside what the link leads to.
    straight = ".." not in file.split("/")
    return straight or os.path.realpath(folder / file) == os.path.realpath(folder / path)


def is_web_address(path: Path) -> bool:
    """Whether it was a URL; `Path` makes one slash of its two."""
    return re.match(r"(https?|ftp|s3|gs):/", str(path)) is not None
