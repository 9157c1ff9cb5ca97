"""What is given to be read, looked at before anything is done with it."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from detrcli.errors import DataError, DetrError, UsageError

if TYPE_CHECKING:
    from detrcli.data.images import OpenedImage

OF_AN_OPTION = re.compile(r"(?:layer|head|query|image) [^:]*:|cost-\w+:")  # how errors about values begin


def check_folder(option: str, path: Path | None, error: type[DetrError] = DataError) -> None:
    """A file where a folder is meant; what is missing is told by whoever opens it."""
    if path is not None and os.path.isfile(path):
        raise error(f"{path}: it is a file, and {option} takes a folder.")


def the_picture(path: Path) -> "OpenedImage":
    """The picture that a command is about, opened before anything is fetched."""
    from detrcli.data.images import open_image

    try:
        return open_image(path)
    except DataError as error:
        raise DataError(f"{path}: {error}.") from None


@contextmanager
def options_named() -> Iterator[None]:
    """Errors about a value, as `layer 9: ...`, name the option that it was given by: `--layer 9: ...`."""
    try:
        yield
    except UsageError as error:
        message = re.sub(r"^cost\.", "cost-", str(error))
        if OF_AN_OPTION.match(message):
            raise UsageError(f"--{message}") from None
        raise


def places(asked: list[str], width: int, height: int) -> list[tuple[float, float]]:
    """What --encoder asks for: places X,Y in pixels of a picture of this size."""
    points = []
    for text in asked:
        try:
            x, y = (float(part) for part in text.split(","))
        except ValueError:
            raise UsageError(f"--encoder {text}: give X,Y in pixels, such as 120,80.") from None
        if not (0 <= x < width and 0 <= y < height):
            raise UsageError(f"--encoder {text}: the picture ends at {width - 1},{height - 1}; it begins at 0,0.")
        points.append((x, y))
    return points


def paths_named(images: list[str]) -> Iterator[str]:
    """The pictures that were named, those on stdin in the place of `-`."""
    for image in images:
        if not image:
            raise UsageError("One of the pictures is named by nothing at all: an empty argument.")
        if image == "-":
            if sys.stdin is None:
                raise UsageError("- means paths on stdin, and stdin is closed.")
            lines = (os.fsdecode(line.rstrip(b"\r\n")) for line in sys.stdin.buffer)
            yield from (line for line in lines if line)
        else:
            yield image
