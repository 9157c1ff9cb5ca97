"""Whether `--weights W` can mean anything, told before torch is imported."""

import difflib
import os
import re
from pathlib import Path

from detrcli.checkpoints.registry import PUBLISHED, SHIPPED
from detrcli.errors import WeightsError

EXPORTS = {"onnx": ".onnx", "openvino": ".xml"}  # who runs an exported model, and how its file ends


def check_weights(source: str) -> None:
    """A name of the registry, something to be fetched, or a path that is there; else an error that says so."""
    # What only a fetch, or another library, can tell.
    if source in PUBLISHED or source in SHIPPED or source.startswith(("hf:", "torchvision:")) or is_url(source):
        return
    if not os.path.exists(Path(source).expanduser()):
        raise unknown_weights(source)


def is_url(source: str) -> bool:
    """Whether it is to be fetched from the web."""
    return re.match(r"https?://", source, re.IGNORECASE) is not None


def unknown_weights(source: str) -> WeightsError:
    """What to say of a name that nothing is known by."""
    near = difflib.get_close_matches(source.lower(), [*PUBLISHED, *SHIPPED], n=1)
    meant = f" Did you mean {near[0]}?" if near else ""
    return WeightsError(
        f"{source}: no such file or folder, and no name of weights.{meant} `detr models` lists the names."
    )
