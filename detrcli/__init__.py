"""DETR, the detection transformer: train, evaluate, predict, and look inside."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # at run time, `__getattr__` imports these
    from detrcli.api.benchmarking import bench as bench
    from detrcli.api.datasets import check_data as check_data
    from detrcli.api.datasets import fix_data as fix_data
    from detrcli.api.detectors import load as load
    from detrcli.api.evaluating import compare_evaluations as compare_evaluations
    from detrcli.api.evaluating import evaluate as evaluate
    from detrcli.api.evaluating import evaluate_panoptic as evaluate_panoptic
    from detrcli.api.inspecting import explain_matching as explain_matching
    from detrcli.api.inspecting import look as look
    from detrcli.api.inspecting import match as match
    from detrcli.api.inspecting import show_data as show_data
    from detrcli.api.inspecting import walk as walk
    from detrcli.api.models import convert as convert
    from detrcli.api.models import describe_model as describe_model
    from detrcli.api.models import export as export
    from detrcli.api.models import list_models as list_models
    from detrcli.api.options import DataOptions as DataOptions
    from detrcli.api.options import LoadOptions as LoadOptions
    from detrcli.api.predicting import predict as predict
    from detrcli.api.quantizing import quantize as quantize
    from detrcli.api.reporting import compare_reports as compare_reports
    from detrcli.api.reporting import doctor as doctor
    from detrcli.api.reporting import report as report
    from detrcli.api.training import train as train
    from detrcli.data.make import make_shapes as make_shapes
    from detrcli.inference.detector import Detector as Detector
    from detrcli.inference.tiles import Tiling as Tiling
    from detrcli.render.draw import DrawingStyle as DrawingStyle
    from detrcli.structures import Detections as Detections
    from detrcli.training.run_status import is_run as is_run

_MODULES = {
    "api.benchmarking": "bench",
    "api.datasets": "check_data fix_data",
    "api.detectors": "load",
    "api.evaluating": "compare_evaluations evaluate evaluate_panoptic",
    "api.inspecting": "explain_matching look match show_data walk",
    "api.models": "convert describe_model export list_models",
    "api.options": "DataOptions LoadOptions",
    "api.predicting": "predict",
    "api.quantizing": "quantize",
    "api.reporting": "compare_reports doctor report",
    "api.training": "train",
    "data.make": "make_shapes",
    "inference.detector": "Detector",
    "inference.tiles": "Tiling",
    "render.draw": "DrawingStyle",
    "structures": "Detections",
    "training.run_status": "is_run",
}
_MODULE_OF = {name: f"detrcli.{module}" for module, names in _MODULES.items() for name in names.split()}
__version__ = "0.1.0"
__all__ = ["__version__", *_MODULE_OF]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, since importing torch takes long."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_MODULE_OF[name]), name)
    except RuntimeError as error:  # from importing torchvision, for example if it does not fit torch
        from detrcli.errors import to_user_error

        raise to_user_error(error) or error from error
