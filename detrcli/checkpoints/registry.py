"""Named weights: those published by DETR's authors, and those in this package.

This module imports no torch, so that a wrong name is reported at once.
"""

import difflib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detrcli.checkpoints.catalog import CATALOG
from detrcli.errors import WeightsError

BASE = "https://dl.fbaipublicfiles.com/detr/"
EXPORTS = {"onnx": ".onnx", "openvino": ".xml"}  # file name extensions of exported models, by runtime


@dataclass(frozen=True)
class Published:
    """A checkpoint trained on COCO that can be downloaded."""

    name: str
    sha256: str  # the whole hash, or its start
    ap: float  # box AP on COCO val2017
    parameters: int
    bytes: int | None = None  # None: unknown

    @property
    def url(self) -> str:
        return f"{BASE}{self.name}-{self.sha256[:8]}.pth"


R50, R101 = (41_524_768, 166_618_694), (60_464_672, 242_846_568)  # parameters, bytes
_PUBLISHED = (
    Published("detr-r50", "e632da11ec76ae67bac2f8579fbed3724e08dead7d200ca13e019b197784eadc", 42.0, *R50),
    Published("detr-r50-dc5", "f0fb7ef52a6b0bbd87dce4a4b8569b509f03ad082f60f936dc5b7009940295d3", 43.3, *R50),
    Published("detr-r101", "2c7b67e52d2e687cefa3c4a5e701a148664159c96725c62984600d2d9d5c4104", 43.5, *R101),
    Published("detr-r101-dc5", "a2e86defc9f49cfca7df75523d8745c6aa15482a5184e8dc62a0a19119c0286e", 44.9, *R101),
    Published("detr-r50-panoptic", "00ce5173", 38.8, 42_899_288),
    Published("detr-r50-dc5-panoptic", "da08f1b1", 40.2, 42_899_288),
    Published("detr-r101-panoptic", "40021d53", 40.1, 61_839_192),
)
PUBLISHED = {known.name: known for known in _PUBLISHED}


@dataclass(frozen=True)
class Shipped:
    """A checkpoint in this package, with a record of its training beside it: commands, time, metrics."""

    path: Path
    # If the file contains only a mask head: the name of its detector's weights, and the preset of both together.
    detector: str | None = None
    model: str | None = None

    @property
    def bytes(self) -> int:
        """The size of all files that are read."""
        return self.path.stat().st_size + (SHIPPED[self.detector].bytes if self.detector else 0)

    @property
    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self.path.with_suffix(".json").read_text(encoding="utf-8"))
        return record


# All for the dataset `shapes`: a dino-tiny, its mask head, and a detr-tiny to compare with.
_FOLDER = Path(__file__).parent
SHIPPED = {
    "shapes": Shipped(_FOLDER / "shapes.safetensors"),
    "shapes-masks": Shipped(_FOLDER / "shapes-masks.safetensors", "shapes", "dino-tiny-masks"),
    "shapes-detr": Shipped(_FOLDER / "shapes-detr.safetensors"),
}


def check_weights(source: str) -> None:
    """Raise WeightsError unless it is a name, something to download, or an existing path."""
    if source in PUBLISHED or source in SHIPPED or source in CATALOG or is_url(source):
        return
    if source.startswith(("hf:", "torchvision:")):
        return
    if not source or not Path(source).resolve().name:  # the root of the file system
        raise WeightsError(f"{source!r}: not the name of weights. `detr models` lists the names.")
    if not os.path.exists(Path(source).expanduser()):
        raise unknown_weights(source)


def is_url(source: str) -> bool:
    return re.match(r"https?://", source, re.IGNORECASE) is not None


# Names of other projects, by the start of their name.
OTHER_NAMES = {
    "yolo": "YOLO models are not detection transformers. Small models are d-fine-n and rf-detr-nano.",
    "rtdetr-l": "This RT-DETR of Ultralytics has another backbone. The nearest is rt-detr-r50.",
    "rtdetr-x": "This RT-DETR of Ultralytics has another backbone. The nearest is rt-detr-r101.",
}


def unknown_weights(source: str) -> WeightsError:
    hint = _hint(source)
    return WeightsError(f"{source}: no such file, folder or name of weights.{hint} `detr models` lists the names.")


def _hint(source: str) -> str:
    """Return a sentence on the name that was probably meant, or nothing."""
    for start, text in OTHER_NAMES.items():
        if source.lower().startswith(start):
            return f" {text}"
    owner, slash, model = source.partition("/")
    if slash and model and "/" not in model and not os.path.exists(owner):
        return f" A model on the Hugging Face hub is hf:{source}."
    names = [*PUBLISHED, *SHIPPED, *CATALOG]
    letters = "-?".join(re.sub(r"[^a-z0-9]", "", source.lower()))  # of a name or a family, however it is separated
    exact, family = ([name for name in names if letters and re.fullmatch(letters + end, name)] for end in ("", "-.*"))
    near = exact or family or difflib.get_close_matches(source.lower(), names, n=1)
    return f" Did you mean {', '.join(near[:6])}?" if near else ""
