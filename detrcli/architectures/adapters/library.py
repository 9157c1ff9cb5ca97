"""Transformers itself: whether it is there, and what becomes of its errors."""

from collections.abc import Callable, Mapping
from typing import Any

from detrcli.errors import WeightsError

NEEDED = "Models of transformers need it to be installed: pip install 'detrcli[transformers]'"
# To all that reads a folder: nothing is fetched, and no code that lies in it is run.
LOCAL: Mapping[str, bool] = {"local_files_only": True, "trust_remote_code": False}

MOST = 300  # characters of an error of its: some list all that it knows


def the_library() -> Any:
    """Transformers, which speaks up for itself only where something is wrong; an error where it is not there."""
    try:
        import transformers
    except ImportError:
        raise WeightsError(NEEDED) from None
    library: Any = transformers
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    return library


def loaded(source: str, load: Callable[[], Any]) -> Any:
    """What it loads; a WeightsError of one line where it does not."""
    try:
        return load()
    except Exception as error:  # whatever another library makes of what lies there
        first = str(error).strip().splitlines()
        what = first[0][:MOST] if first else repr(error)
        raise WeightsError(f"{source}: transformers does not load it: {what}") from None
