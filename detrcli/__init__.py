"""DETR, the detection transformer, to train, evaluate, predict with and look inside."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detrcli.inference.detector import Detector as Detector
    from detrcli.inference.detector import load as load
    from detrcli.structures import Detections as Detections

__version__ = "0.1.0"
__all__ = ["Detections", "Detector", "__version__", "load"]


def __dir__() -> list[str]:
    """What there is, whether it was asked for yet or not."""
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Import what takes torch only when it is asked for."""
    if name in ("Detector", "load"):
        from detrcli.errors import explain

        try:
            from detrcli.inference import detector
        except RuntimeError as error:
            raise explain(error) or error from error
        return getattr(detector, name)
    if name == "Detections":
        from detrcli.structures import Detections

        return Detections
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
