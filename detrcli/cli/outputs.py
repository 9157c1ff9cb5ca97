"""Checks of output paths: nothing is overwritten unasked, and nothing in the user's data."""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from errno import ENAMETOOLONG
from pathlib import Path
from typing import Any

import detrcli
from detrcli.errors import UsageError
from detrcli.system.files import write_arrays
from detrcli.system.lock import LOCK

FIGURE = (".png", ".jpg", ".jpeg", ".webp")
ARRAYS = (".npz",)
PAGE = (".html", ".htm")


def check_free(path: Path, *, overwrite: bool = False, folder: bool = False) -> None:
    """Raise UsageError if an output exists and may not be overwritten. An empty folder may."""
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == ENAMETOOLONG:  # reported now rather than after a long run
            raise
        return
    if folder != path.is_dir():
        raise UsageError(f"{path} is {'not a folder' if folder else 'a folder'}. Choose another path.")
    if not overwrite and not (folder and all(entry.name == LOCK for entry in path.iterdir())):
        raise UsageError(f"{path} exists. Choose another path, or use --overwrite if the command has it.")


def check_files(
    files: Sequence[tuple[Path | None, Sequence[str]]],
    *,
    overwrite: bool,
    inputs: Iterable[Path | None] = (),
    data: "detrcli.DataOptions | None" = None,
    folders: bool = False,
) -> None:
    """Check output files, or folders, and the suffixes that they may have (any, if none is given).

    The folders that will contain them are created.
    """
    read = {os.path.realpath(path) for path in inputs if path is not None}
    outputs = [(path, suffixes) for path, suffixes in files if path is not None]
    if len({path for path, _ in outputs}) < len(outputs):
        raise UsageError(f"{outputs[0][0]} is given for several outputs. Choose different paths.")
    for path, suffixes in outputs:
        if suffixes and path.suffix.lower() not in suffixes:
            raise UsageError(f"{path}: its name must end in {' or '.join(suffixes)}.")
        check_free(path, overwrite=overwrite, folder=folders)
        if os.path.realpath(path) in read:
            raise UsageError(f"{path} is an input, and would be overwritten. Choose another path.")
        if data is not None:
            check_not_in_data(path, data)
    for path, _ in outputs:  # so that a path that cannot be written does not cost a run
        path.parent.mkdir(parents=True, exist_ok=True)


def next_free_file(name: str) -> Path:
    """Return a file name that does not exist: this one, or with the next free number."""
    path, number = Path(name), 1
    while os.path.lexists(path):
        number += 1
        path = Path(name).with_stem(f"{Path(name).stem}-{number}")
    return path


def write_report(report: Any, out: Path, raw: Path | None, html: Path | None) -> None:
    """Write the figure of a report, and its arrays and page if requested."""
    from detrcli.render.draw import save  # slow to import

    save(report.figure, out)
    if raw is not None:
        write_arrays(raw, report.arrays)
    if html is not None:
        report.page(html)


def check_not_in_data(out: Path, data: "detrcli.DataOptions") -> None:
    """Raise UsageError if an output is inside a dataset, where it could be read as a part of the data."""
    for folder in data.folders:
        if _is_inside(out, folder):
            raise UsageError(
                f"{out} is in the data folder {folder}, in which nothing is overwritten or added.\nChoose another path."
            )


def _is_inside(path: Path, folder: Path) -> bool:
    # By the path as given, and with its links resolved.
    for absolute in (Path(os.path.abspath(path)), Path(os.path.realpath(path))):
        for ancestor in (absolute, *absolute.parents):
            with suppress(OSError):  # most outputs do not exist yet
                if ancestor.samefile(folder):
                    return True
    return False
