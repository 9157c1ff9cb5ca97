"""Training a model on a dataset, with a report at the end."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from detrcli.api.options import Data, data_options
from detrcli.api.runs import SavedRun, TrainingPlan, TrainingResult, run_training
from detrcli.checkpoints.load import named_preset
from detrcli.data.source import DataSpec
from detrcli.errors import DetrError, UsageError
from detrcli.evaluation.metrics import Evaluator
from detrcli.messages import argument
from detrcli.reporter import SILENT, Reporter
from detrcli.system.devices import find_device
from detrcli.system.files import next_free_folder
from detrcli.system.launch import launch
from detrcli.training.progress import NO_LISTENER, TrainingListener
from detrcli.training.settings import given_settings

REPORT = "report"  # folder in the run
REPORT_SHARE = 0.04  # of the training's time; parts that cannot be shortened take up to another hundredth
MIN_REPORT_SECONDS = 4.0
RESUMABLE = frozenset({"epochs", "workers"})  # settings that a resumed training may change


def train(
    data: Data | None = None,
    *,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    device: str = "auto",
    config: Path | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    dry_run: bool = False,
    report: bool = True,
    evaluator: Evaluator | None = None,
    listener: TrainingListener = NO_LISTENER,
    reporter: Reporter = SILENT,
    **options: Any,
) -> TrainingResult | TrainingPlan:
    """Fine-tune a model on a dataset, or train it from scratch (`weights="none"`); see `detr guide training`.

    `options` are settings: weights, model, epochs, batch_size, lr, size, seed and many more. `settings` are settings
    too, by name or as KEY=VALUE. `evaluator` replaces the COCO metrics of each epoch. `report` writes a report on the
    validation split, in at most a twentieth of the training's time. `resume` continues a run as if it had never
    stopped. With `dry_run`, only a step is measured. Signal handlers and torch's random state are restored.
    """
    named, pairs = (settings, ()) if isinstance(settings, Mapping) else ({}, settings)
    options = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
    options = {**named, **{key: value for key, value in options.items() if value is not None}}
    read = data_options(data)
    saved = None
    if resume is None:
        given = given_settings(config, options, pairs)
        if given.get("model") is not None:
            named_preset(given["model"])  # an unknown model is an error before the data is read
        spec = DataSpec.of(read.path, read.files, read.exif, skip_bad=read.skip_bad)
    else:
        changed = given_settings(None, options, pairs)
        fixed = {"out": out, "config": config, "exif": read.exif != "auto", "skip_bad": read.skip_bad}
        refused = [*sorted(changed.keys() - RESUMABLE), *(name for name, value in fixed.items() if value)]
        if refused:
            raise UsageError(
                f"{resume}: a resumed run keeps its settings. {', '.join(map(argument, refused))} cannot be changed.\n"
                f"Only {argument('epochs')}, {argument('device')} and {argument('workers')} can."
            )
        saved = SavedRun.load(Path(resume), reporter)
        with saved.readable():
            given = {**saved.state["settings"], **changed}
            spec = saved.data(read)
    result = run_training(
        spec, given, device, out=out, saved=saved, dry_run=dry_run, evaluator=evaluator, listener=listener,
        reporter=reporter,
    )  # fmt: skip
    if isinstance(result, TrainingPlan) or not report or launch().rank > 0 or result.stopped is not None:
        return result
    return _with_report(result, device, reporter)


def _with_report(result: TrainingResult, device: str, reporter: Reporter) -> TrainingResult:
    """Write the report if there is time for it. Its errors are reported: the training is complete without it."""
    seconds = REPORT_SHARE * result.seconds
    if seconds < MIN_REPORT_SECONDS:
        return result
    from detrcli.api.reporting import end_of_run  # slow to import

    folder, device = next_free_folder(str(result.run / REPORT)), str(find_device(device))
    try:
        page, diagnosis = end_of_run(
            result.run, result.examined, device=device, seconds=seconds, folder=folder, wording=reporter.wording
        )
    except (DetrError, OSError) as error:
        reporter.note(f"no report: {error.message if isinstance(error, DetrError) else error}")
        return result
    return replace(result, report=page, findings=diagnosis.findings)
