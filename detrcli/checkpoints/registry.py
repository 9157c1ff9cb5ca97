"""Named weights: those published by DETR's authors, and those in this package.

This module imports no torch, so that a wrong name is reported at once.
"""

import difflib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detrcli.checkpoints.catalog import APACHE, CATALOG
from detrcli.errors import UsageError, WeightsError
from detrcli.messages import argument

DEFAULT = "detr-r50"  # the default weights of commands
BASE = "https://dl.fbaipublicfiles.com/detr/"
EXPORTS = {  # file name extensions of exported models, by runtime
    "onnx": ".onnx",
    "openvino": ".xml",
    "tensorrt": ".engine",
    "coreml": ".mlpackage",
    "litert": ".tflite",
    "executorch": ".pte",
}


@dataclass(frozen=True)
class Published:
    """A checkpoint trained on COCO that can be downloaded."""

    name: str
    sha256: str  # the whole hash, or its start
    ap: float  # box AP on COCO val2017
    parameters: int
    bytes: int | None = None  # None: unknown
    license: str = APACHE

    @property
    def url(self) -> str:
        return f"{BASE}{self.name}-{self.sha256[:8]}.pth"


# Ids of the same models on the hub.
HUB_NAMES = {
    "detr-r50": "facebook/detr-resnet-50",
    "detr-r50-dc5": "facebook/detr-resnet-50-dc5",
    "detr-r101": "facebook/detr-resnet-101",
    "detr-r101-dc5": "facebook/detr-resnet-101-dc5",
    "detr-r50-panoptic": "facebook/detr-resnet-50-panoptic",
    "detr-r101-panoptic": "facebook/detr-resnet-101-panoptic",
}
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


# Names of other projects, and of models that are not listed, by the start of their letters and digits.
_ULTRALYTICS = "This RT-DETR of Ultralytics has another backbone. The nearest is {}."
_PML = (
    "Its weights are under the PML 1.0 license, which binds them to its vendor's platform, and are not listed. "
    "The largest RF-DETR under Apache-2.0 is rf-detr-large."
)
_NO_ADDRESS = "Its published file has no address with a hash: download the file, and give its path."
OTHER_NAMES = {
    "rtdetrl": _ULTRALYTICS.format("rt-detr-r50"),
    "rtdetrx": _ULTRALYTICS.format("rt-detr-r101"),
    "rfdetrxlarge": _PML,
    "rfdetrxxlarge": _PML,
    "rfdetr2xlarge": _PML,
    "rfdetrkeypoint": "RF-DETR with key points is not supported.",
    "yolosbase": "Its repository has no safetensors file. The nearest is yolos-small.",
    "yolos": "",
    "yolo": "YOLO models are not detection transformers. Small models are d-fine-n and rf-detr-nano.",
    "deimv2": "In the format of transformers, only deimv2-n and deimv2-pico are published.",
    "deim": f"{_NO_ADDRESS} Listed models with the same network are d-fine-n to d-fine-x.",
    "mask2former": "Its weights are under CC-BY-NC 4.0 and are not listed; hf:OWNER/NAME loads them.",
    "maskformer": "Its weights are under CC-BY-NC 4.0 and are not listed; hf:OWNER/NAME loads them.",
    "dinor50": _NO_ADDRESS,
    "deformabledetrr50": f"{_NO_ADDRESS} A listed model is deformable-detr.",
    "fasterrcnn": "Detectors of torchvision are torchvision:NAME.",
    "retinanet": "Detectors of torchvision are torchvision:NAME.",
    "fcos": "Detectors of torchvision are torchvision:NAME.",
}


def unknown_weights(source: str) -> WeightsError:
    text, names = _similar(source, [*PUBLISHED, *SHIPPED, *CATALOG])
    hint = text or (f"Did you mean {', '.join(names)}?" if names else "")
    return WeightsError(
        f"{source}: no such file, folder or name of weights. {hint}{' ' if hint else ''}`detr models` lists the names."
    )


def unknown_model(name: str, presets: Sequence[str]) -> UsageError:
    """Return the error for a name that is not the name of a preset. Named weights are proposed as weights."""
    problem = f"{argument('model', name)}: unknown model."
    text, weights = _similar(name, [*PUBLISHED, *CATALOG])
    _, models = _similar(name, presets)
    if text:
        remedy = f"{text} Published weights are given as {argument('weights', 'NAME')}."
    elif (
        weights
        and _key(weights[0]).startswith(_key(name))
        and not _key(models[0] if models else "").startswith(_key(name))
    ):
        more = f" Similar: {', '.join(weights[1:])}." if weights[1:] else ""
        remedy = f"{argument('weights', weights[0])} starts from published weights.{more}"
    else:
        hint = f" Did you mean {argument('model', models[0])}?" if models else ""
        return UsageError(f"{problem}{hint}\nThe models are {', '.join(presets)}.")
    scratch = f"{argument('model', 'dino-tiny')} {argument('weights', 'none')}"
    return UsageError(f"{problem} {remedy}\nFrom scratch: {scratch}, or another model of `detr guide models`.")


def _similar(source: str, names: Sequence[str]) -> tuple[str, list[str]]:
    """Return a sentence on a name of another project or of the hub, and the names that were probably meant."""
    owner, slash, model = source.partition("/")
    if slash and model and "/" not in model and not os.path.exists(owner):
        listed = [name for name in names if name in CATALOG and CATALOG[name].repository == source]
        listed += [name for name in names if source == HUB_NAMES.get(name)]
        also = f"It is listed as {listed[0]}. " if listed else ""
        return f"{also}A model on the Hugging Face hub is hf:{source}.", []
    key = _key(source)
    text = next((text for start, text in OTHER_NAMES.items() if key.startswith(start)), "")
    exact = [name for name in names if _key(name) == key]
    family = [name for name in names if key and re.fullmatch("-?".join(key) + "-.*", name)]
    near = exact or family or difflib.get_close_matches(source.lower(), names, n=1)
    return "" if exact else text, near[:6]


def _key(name: str) -> str:
    """Return the letters and digits of a name, which people separate in different ways."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
