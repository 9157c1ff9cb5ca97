"""All that the commands do, one function for each, with typed results: for notebooks, scripts, and the commands."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detrcli.api.benchmarking import Benchmark as Benchmark
    from detrcli.api.benchmarking import bench as bench
    from detrcli.api.checking import check_data as check_data
    from detrcli.api.detector import Detector as Detector
    from detrcli.api.detector import load as load
    from detrcli.api.detector import predict as predict
    from detrcli.api.doctoring import Diagnosis as Diagnosis
    from detrcli.api.doctoring import doctor as doctor
    from detrcli.api.evaluating import Evaluation as Evaluation
    from detrcli.api.evaluating import evaluate as evaluate
    from detrcli.api.exporting import export as export
    from detrcli.api.inspecting import explain_matching as explain_matching
    from detrcli.api.inspecting import look as look
    from detrcli.api.inspecting import walk as walk
    from detrcli.api.reporting import Report as Report
    from detrcli.api.reporting import report as report
    from detrcli.api.training import TrainingPlan as TrainingPlan
    from detrcli.api.training import TrainingResult as TrainingResult
    from detrcli.api.training import train as train

# Where each is: who predicts shall not wait for what trains.
_FILES = {
    "Benchmark": "benchmarking",
    "Detector": "detector",
    "Diagnosis": "doctoring",
    "Evaluation": "evaluating",
    "Report": "reporting",
    "TrainingPlan": "training",
    "TrainingResult": "training",
    "bench": "benchmarking",
    "check_data": "checking",
    "doctor": "doctoring",
    "evaluate": "evaluating",
    "explain_matching": "inspecting",
    "export": "exporting",
    "load": "detector",
    "look": "inspecting",
    "predict": "detector",
    "report": "reporting",
    "train": "training",
    "walk": "inspecting",
}
__all__ = list(_FILES)


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
