"""Which pictures a user means."""

import glob
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
        if path.exists() or not glob.has_magic(argument):
            yield from _of(path)
        else:
            found = sorted(Path(name) for name in glob.glob(argument, recursive=True))
            for match in found or [path]:
                yield from _of(match)


def _of(path: Path) -> Iterator[Named]:
    inside = sorted(file for file in path.rglob("*") if _is_picture(file)) if path.is_dir() else []
    if inside:
        yield from (Named(file, file.relative_to(path)) for file in inside)
    else:
        yield Named(path, Path(path.name))


def _is_picture(path: Path) -> bool:
    # Files such as ._photo.jpg are metadata that macOS leaves behind.
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
