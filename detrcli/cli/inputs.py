"""What is given to be read, looked at before anything is done with it."""

from pathlib import Path

from detrcli.errors import DataError, DetrError


def check_folder(option: str, path: Path | None, error: type[DetrError] = DataError) -> None:
    """A file where a folder is meant; what is missing is told by whoever opens it."""
    if path is not None and path.is_file():
        raise error(f"{path}: it is a file, and {option} takes a folder.")
