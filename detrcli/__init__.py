"""DETR, the detection transformer: train, evaluate, predict, and look inside."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detrcli.api import (
        Detections,
        Detector,
        LoadOptions,
        bench,
        check_data,
        doctor,
        evaluate,
        explain_matching,
        export,
        load,
        look,
        match,
        predict,
        report,
        train,
        walk,
    )

__version__ = "0.1.0"
__all__ = [
    "Detections",
    "Detector",
    "LoadOptions",
    "__version__",
    "bench",
    "check_data",
    "doctor",
    "evaluate",
    "explain_matching",
    "export",
    "load",
    "look",
    "match",
    "predict",
    "report",
    "train",
    "walk",
]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Import the functions, which need torch, when they are first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from detrcli import api
    from detrcli.errors import to_user_error

    try:
        return getattr(api, name)
    except RuntimeError as error:
        raise to_user_error(error) or error from error
