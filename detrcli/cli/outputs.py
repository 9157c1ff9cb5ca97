"""Where results go: nothing that is there is overwritten unasked, nothing of the user's ever."""

from collections.abc import Iterable
from pathlib import Path

from detrcli.errors import UsageError


def check_free(path: Path, *, overwrite: bool = False) -> None:
    """An explicit output that exists is an error unless it may be overwritten; an empty folder counts as free."""
    empty = path.is_dir() and not any(path.iterdir())
    if path.exists() and not empty and not overwrite:
        raise UsageError(f"{path} exists. Give another place, or --overwrite where there is such an option.")


def next_free_folder(name: str) -> Path:
    """A new folder of this name, or with the next free number behind it."""
    number = 1
    while True:
        path = Path(name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return path


class Names:
    """Gives each picture an output name of its own below a folder, never that of an input."""

    def __init__(self, inputs: Iterable[Path]) -> None:
        self._inputs = {path.resolve() for path in inputs}
        self._taken: set[Path] = set()

    def give(self, folder: Path, below: Path) -> Path:
        """folder/below, with a number where another picture has that name."""
        path, number = folder / below, 1
        while path in self._taken:
            number += 1
            path = folder / below.with_name(f"{below.stem}-{number}{below.suffix}")
        if path.resolve() in self._inputs:
            raise UsageError(
                f"{path} is one of the pictures given; it would be overwritten. Give another --out."
            )
        self._taken.add(path)
        return path
