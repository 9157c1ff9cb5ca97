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
    if source in PUBLISHED or source in SHIPPED or source.startswith(("hf:", "torchvision:")) or is_url(source):
        return
    if not os.path.exists(Path(source).expanduser()):
        raise unknown_weights(source)


def is_url(source: str) -> bool:
    return re.match(r"https?://", source, re.IGNORECASE) is not None


def unknown_weights(source: str) -> WeightsError:
    near = difflib.get_close_matches(source.lower(), [*PUBLISHED, *SHIPPED], n=1)
    guess = f" Did you mean {near[0]}?" if near else ""
    return WeightsError(f"{source}: no such file, folder or name of weights.{guess} `detr models` lists the names.")
