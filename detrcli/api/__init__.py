"""The functions behind the commands, with typed results. Each is imported when it is first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detrcli.api.benchmarking import bench as bench
    from detrcli.api.datasets import check_data as check_data
    from detrcli.api.datasets import fix_data as fix_data
    from detrcli.api.datasets import open_dataset as open_dataset
    from detrcli.api.datasets import show_data as show_data
    from detrcli.api.evaluating import compare_evaluations as compare_evaluations
    from detrcli.api.evaluating import evaluate as evaluate
    from detrcli.api.evaluating import evaluate_panoptic as evaluate_panoptic
    from detrcli.api.inspecting import explain_matching as explain_matching
    from detrcli.api.inspecting import look as look
    from detrcli.api.inspecting import match as match
    from detrcli.api.inspecting import walk as walk
    from detrcli.api.loading import LoadOptions as LoadOptions
    from detrcli.api.loading import load as load
    from detrcli.api.models import export as export
    from detrcli.api.models import list_models as list_models
    from detrcli.api.predicting import predict as predict
    from detrcli.api.reporting import compare_reports as compare_reports
    from detrcli.api.reporting import doctor as doctor
    from detrcli.api.reporting import report as report
    from detrcli.api.training import train as train
    from detrcli.data.make import make_shapes as make_shapes
    from detrcli.inference.detector import Detector as Detector
    from detrcli.structures import Detections as Detections
    from detrcli.training.run_folder import is_run as is_run

_MODULES = {
    "detrcli.api.benchmarking": ("bench",),
    "detrcli.api.datasets": ("check_data", "fix_data", "open_dataset", "show_data"),
    "detrcli.api.evaluating": ("compare_evaluations", "evaluate", "evaluate_panoptic"),
    "detrcli.api.inspecting": ("explain_matching", "look", "match", "walk"),
    "detrcli.api.loading": ("LoadOptions", "load"),
    "detrcli.api.models": ("export", "list_models"),
    "detrcli.api.predicting": ("predict",),
    "detrcli.api.reporting": ("compare_reports", "doctor", "report"),
    "detrcli.api.training": ("train",),
    "detrcli.training.run_folder": ("is_run",),
    "detrcli.data.make": ("make_shapes",),
    "detrcli.inference.detector": ("Detector",),
    "detrcli.structures": ("Detections",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
__all__ = list(_MODULE_OF)


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)
