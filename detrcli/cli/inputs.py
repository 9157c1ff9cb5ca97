"""What is given to be read, looked at before anything is done with it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detrcli.errors import DataError, DetrError, UsageError

OF_AN_OPTION = re.compile(r"(?:layer|head|query|image) [^:]*:|cost-\w+:")  # how errors about values begin


def check_folder(option: str, path: Path | None, error: type[DetrError] = DataError) -> None:
    """A file where a folder is meant; what is missing is told by whoever opens it."""
    if path is not None and path.is_file():
        raise error(f"{path}: it is a file, and {option} takes a folder.")


@contextmanager
def options_named() -> Iterator[None]:
    """Errors about a value, as `layer 9: ...`, name the option that it was given by: `--layer 9: ...`."""
    try:
        yield
    except UsageError as error:
        said = re.sub(r"^cost\.", "cost-", str(error))
        if OF_AN_OPTION.match(said):
            raise UsageError(f"--{said}") from None
        raise
