"""Which pictures a user means."""

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from detrcli.data.images import SUFFIXES


@dataclass(frozen=True)
class Named:
    """A picture that was asked for."""

    path: Path
    below: Path  # where it lies below the folder that was given; its name if it was given itself


def collect(arguments: Iterable[str]) -> Iterator[Named]:
    """Pictures by file, folder (all below it) or pattern, in the order of the arguments, sorted in each.

    What does not exist is passed on, for whoever opens it to say so.
    """
    for argument in arguments:
        path = Path(argument)
        if os.path.exists(path) or not glob.has_magic(argument):
            yield from _of(path)
        else:
            found = sorted(Path(name) for name in glob.glob(argument, recursive=True))
            for match in found or [path]:
                yield from _of(match)


def _of(path: Path) -> Iterator[Named]:
    inside = sorted(_below(path)) if os.path.isdir(path) else []
    if inside:
        yield from (Named(file, file.relative_to(path)) for file in inside)
    else:
        yield Named(path, Path(path.name))


def _below(folder: Path) -> Iterator[Path]:
    """What looks like a picture, links that lead nowhere too, and folders that may not be read.

    Hidden files and folders are passed over (._photo.jpg is what macOS leaves behind), links to folders too.
    """
    unreadable: list[Path] = []
    for place, folders, files in os.walk(folder, onerror=lambda error: unreadable.append(Path(error.filename))):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES:
                yield Path(place, name)
    yield from unreadable
