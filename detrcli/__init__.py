"""DETR, the detection transformer: train, evaluate, predict, and look inside."""

from typing import TYPE_CHECKING, Any

from detrcli import api

if TYPE_CHECKING:
    from detrcli.api import *  # noqa: F403

__version__ = "0.1.0"
__all__ = ["__version__", *api.__all__]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Import the functions, which need torch, when they are first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(api, name)
    except RuntimeError as error:
        from detrcli.errors import to_user_error

        raise to_user_error(error) or error from error
