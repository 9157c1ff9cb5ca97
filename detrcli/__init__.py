"""DETR, the detection transformer, to train, evaluate, predict with and look inside."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detrcli.api import Detector as Detector
    from detrcli.api import bench as bench
    from detrcli.api import check_data as check_data
    from detrcli.api import doctor as doctor
    from detrcli.api import evaluate as evaluate
    from detrcli.api import explain_matching as explain_matching
    from detrcli.api import export as export
    from detrcli.api import load as load
    from detrcli.api import look as look
    from detrcli.api import predict as predict
    from detrcli.api import report as report
    from detrcli.api import train as train
    from detrcli.api import walk as walk
    from detrcli.structures import Detections as Detections

__version__ = "0.1.0"
_API = (
    "Detector",
    "bench",
    "check_data",
    "doctor",
    "evaluate",
    "explain_matching",
    "export",
    "load",
    "look",
    "predict",
    "report",
    "train",
    "walk",
)
__all__ = ["Detections", "__version__", *_API]


def __dir__() -> list[str]:
    """What there is, whether it was asked for yet or not."""
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Import what takes torch only when it is asked for."""
    if name in _API:
        from detrcli.errors import to_user_error

        try:
            from detrcli import api
        except RuntimeError as error:
            raise to_user_error(error) or error from error
        return getattr(api, name)
    if name == "Detections":
        from detrcli.structures import Detections

        return Detections
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
