"""Names on the command line: of arguments in messages, of other programs' options; and `--resume` without a value."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detrcli.cli.console import STDERR
from detrcli.errors import UsageError
from detrcli.messages import Wording, in_python

RUNS = Path("runs")

# Our options, and their names in Ultralytics, YOLOv5, Grounding DINO, MMDetection and the published DETR script.
# Underscores instead of hyphens are recognized too.
_SYNONYMS = {
    "--threshold": ("--conf", "--conf-thres", "--confidence", "--score-threshold"),
    "--size": ("--imgsz", "--img", "--img-size", "--image-size"),
    "--batch-size": ("--batch",),
    "--max-det": ("--top-k",),
    "--line-width": ("--line-thickness",),
    "--text": ("--text-prompt", "--prompt", "--texts"),
    "IMAGE": ("--source", "--input"),
    "DATA": ("--data", "--coco-path"),
    "--save-crop": ("--save-crops",),
    "--out": ("--project", "--output", "--output-dir"),
    "--weights": ("--checkpoint", "--ckpt"),
    "--lr": ("--lr0", "--learning-rate"),
    "--set workers=N": ("--workers", "--num-workers"),
    "--set queries=N": ("--num-queries",),
    "--set patience=N": ("--patience",),
}
OTHER_NAMES = {other: ours for ours, others in _SYNONYMS.items() for other in others}


def _names(command: Any) -> Mapping[str, str]:
    """Map the parameters of a command, and its options without hyphens, to what the user types: `--size`, `IMAGE`."""
    names = {}
    for parameter in getattr(command, "params", ()):
        if parameter.param_type_name == "argument":
            names[parameter.name] = parameter.name.upper().removesuffix("S")
        else:
            names[parameter.name] = parameter.opts[0]
            names |= {option.lstrip("-").replace("-", "_"): option for option in parameter.opts}
    return names


def words_of(command: Any) -> Wording:
    """Return how messages name arguments: as options of the command, as `--set NAME=VALUE`, or as in Python."""
    names = _names(command)

    def wording(name: str, value: str | None) -> str:
        option = names.get(name) or names.get(name.replace(".", "_"))
        if option is not None and not option.startswith("-"):  # a positional argument
            return option if value is None else value
        if option is not None:
            return option if value is None else f"{option} {value}"
        return f"--set {name}={value or 'VALUE'}" if "set" in names else in_python(name, value)

    return wording


def other_name(error: Exception) -> str | None:
    """Return a message for an option that exists here under another name; None for other errors."""
    if type(error).__name__ != "NoSuchOption":  # typer does not export the class
        return None
    option, context = getattr(error, "option_name", ""), getattr(error, "ctx", None)
    spelled = option.replace("_", "-")
    ours = OTHER_NAMES.get(spelled, spelled)
    if context is None or ours.split()[0] not in _names(context.command).values():
        return None
    return f"No such option: {option}. Use {ours if ours.startswith('-') else f'the argument {ours}'}."


def complete_resume(arguments: Sequence[str]) -> list[str]:
    """Insert the latest run after `train --resume` without a value, which typer does not support."""
    complete = list(arguments)
    if complete[:1] != ["train"] or "--resume" not in complete:
        return complete
    position = complete.index("--resume") + 1
    if complete[position : position + 1] and not complete[position].startswith("-"):
        return complete
    states = [path for path in RUNS.glob("**/state/*.pt") if path.is_file()]
    if not states:
        raise UsageError(f"--resume: there is no run in {RUNS}/. Name the folder of a run: --resume RUN.")
    run = max(states, key=lambda path: path.stat().st_mtime).parent.parent
    STDERR.note(f"resuming {run}, the latest run")
    return [*complete[:position], str(run), *complete[position:]]
