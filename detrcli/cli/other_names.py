"""Options as other programs call them, answered with our names for them."""

from collections.abc import Collection
from typing import Any

# Names of Ultralytics, YOLOv5, Grounding DINO, MMDetection and the published DETR script. All are with hyphens;
# underscores mean the same.
OTHER_NAMES = {
    "--conf": "--threshold",
    "--conf-thres": "--threshold",
    "--confidence": "--threshold",
    "--score-threshold": "--threshold",
    "--imgsz": "--size",
    "--img": "--size",
    "--img-size": "--size",
    "--image-size": "--size",
    "--batch": "--batch-size",
    "--text-prompt": "--text",
    "--prompt": "--text",
    "--texts": "--text",
    "--source": "IMAGE",
    "--input": "IMAGE",
    "--data": "DATA",
    "--coco-path": "DATA",
    "--project": "--out",
    "--output": "--out",
    "--output-dir": "--out",
    "--checkpoint": "--weights",
    "--ckpt": "--weights",
    "--lr0": "--lr",
    "--learning-rate": "--lr",
    "--workers": "--set workers=N",
    "--num-workers": "--set workers=N",
    "--num-queries": "--set queries=N",
    "--patience": "--set patience=N",
}


def answer(error: Exception) -> str | None:
    """What an option that there is not is called here; None for other errors and where there is no such thing."""
    if type(error).__name__ != "NoSuchOption":  # typer keeps the class to itself
        return None
    option: str = getattr(error, "option_name", "")
    context = getattr(error, "ctx", None)
    ours = _our_name(option, _known(context.command)) if context else None
    return ours and f"there is no {option}; it is {ours} here"


def _our_name(option: str, known: Collection[str]) -> str | None:
    spelled = option.replace("_", "-")
    ours = OTHER_NAMES.get(spelled, spelled)
    if ours.split()[0] not in known:
        return None
    return ours if ours.startswith("-") else f"the argument {ours}"


def _known(command: Any) -> set[str]:
    """The options of a command, and its arguments as IMAGE and DATA."""
    names: set[str] = set()
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            names.add(parameter.name.upper().removesuffix("S"))
        else:
            names.update(parameter.opts)
    return names
