"""Where a data set lies that is named by one of its files."""

import re
from pathlib import Path


def folder_of(data: Path) -> Path:
    """The folder of a data set, also where a file of it is named; COCO keeps those in annotations/."""
    if not data.is_file():
        return data
    folder = data.absolute().parent
    return folder.parent if folder.name == "annotations" else data.parent


def is_web_address(path: Path) -> bool:
    """Whether it was a URL; `Path` makes one slash of its two."""
    return re.match(r"(https?|ftp|s3|gs):/", str(path)) is not None
