"""Where results go: over nothing that is there unasked, and never over what was given to be read."""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from errno import ENAMETOOLONG
from pathlib import Path

from detrcli.errors import UsageError
from detrcli.system.lock import LOCK

PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def check_free(path: Path, *, overwrite: bool = False, folder: bool = False) -> None:
    """An explicit output that exists is an error unless it may be overwritten; an empty folder counts as free."""
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == ENAMETOOLONG:  # told before a long run, and not at its end
            raise
        return
    if folder != path.is_dir():
        raise UsageError(f"{path} is {'no folder' if folder else 'a folder'}. Give another place.")
    if not overwrite and not (folder and _is_empty(path)):
        raise UsageError(f"{path} exists. Give another place, or --overwrite where there is such an option.")


def _is_empty(folder: Path) -> bool:
    return all(path.name == LOCK for path in folder.iterdir())


def check_ending(path: Path, *endings: str) -> None:
    """An output's name says what kind of file it becomes."""
    if path.suffix.lower() not in endings:
        raise UsageError(f"{path}: its name ends in {' or '.join(endings)}.")


def next_free_file(name: str) -> Path:
    """A file name that is not taken: this one, or with the next free number behind it."""
    path, number = Path(name), 1
    while os.path.lexists(path):
        number += 1
        path = Path(name).with_stem(f"{Path(name).stem}-{number}")
    return path


def different(names: Iterable[Path]) -> list[Path]:
    """The names, with a number behind one that has come before."""
    given: dict[Path, None] = {}
    for name in names:
        path, number = name, 1
        while path in given:
            number += 1
            path = name.with_name(f"{name.stem}-{number}{name.suffix}")
        given[path] = None
    return list(given)


def check_not_inputs(outputs: Iterable[Path], inputs: Sequence[Path]) -> None:
    """No output may be one of the files that are read."""
    read = {os.path.realpath(path) for path in inputs}
    for output in outputs:
        if os.path.realpath(output) in read:
            raise UsageError(f"{output} is one of the files given; it would be overwritten. Give another place.")


def check_not_in_data(out: Path, *data: Path | None) -> None:
    """No output lies where data lies: it might be taken for a part of it. `data` is as the user named it."""
    from detrcli.data.source import data_folders

    for folder in (folder for given in data if given is not None for folder in data_folders(given)):
        if _lies_in(out, folder):
            raise UsageError(
                f"{out} lies in the data folder {folder}; nothing there is overwritten or added.\nGive another place."
            )


def _lies_in(path: Path, folder: Path) -> bool:
    # By the name as it is given, and by the place that links on its way lead to.
    for way in (Path(os.path.abspath(path)), Path(os.path.realpath(path))):
        for place in (way, *way.parents):
            with suppress(OSError):  # most often it is not there yet
                if place.samefile(folder):
                    return True
    return False
