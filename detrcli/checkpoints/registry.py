"""Weights that have a name: the published ones, trained on COCO by the authors of DETR, and our own."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BASE = "https://dl.fbaipublicfiles.com/detr/"


@dataclass(frozen=True)
class Published:
    """A checkpoint that can be fetched."""

    file: str
    sha256: str  # whole where it is known, else its start
    ap: float  # box AP on COCO val2017
    parameters: int  # of the model that it fills
    bytes: int | None = None  # None where it is not known

    @property
    def url(self) -> str:
        """Where it is."""
        return BASE + self.file


PUBLISHED = {
    "detr-r50": Published(
        "detr-r50-e632da11.pth",
        "e632da11ec76ae67bac2f8579fbed3724e08dead7d200ca13e019b197784eadc",
        42.0,
        41_524_768,
        166_618_694,
    ),
    "detr-r50-dc5": Published(
        "detr-r50-dc5-f0fb7ef5.pth",
        "f0fb7ef52a6b0bbd87dce4a4b8569b509f03ad082f60f936dc5b7009940295d3",
        43.3,
        41_524_768,
        166_618_694,
    ),
    "detr-r101": Published(
        "detr-r101-2c7b67e5.pth",
        "2c7b67e52d2e687cefa3c4a5e701a148664159c96725c62984600d2d9d5c4104",
        43.5,
        60_464_672,
        242_846_568,
    ),
    "detr-r101-dc5": Published(
        "detr-r101-dc5-a2e86def.pth",
        "a2e86defc9f49cfca7df75523d8745c6aa15482a5184e8dc62a0a19119c0286e",
        44.9,
        60_464_672,
        242_846_568,
    ),
    "detr-r50-panoptic": Published("detr-r50-panoptic-00ce5173.pth", "00ce5173", 38.8, 42_899_288),
    "detr-r50-dc5-panoptic": Published("detr-r50-dc5-panoptic-da08f1b1.pth", "da08f1b1", 40.2, 42_899_288),
    "detr-r101-panoptic": Published("detr-r101-panoptic-40021d53.pth", "40021d53", 40.1, 61_839_192),
}


@dataclass(frozen=True)
class Shipped:
    """Weights that come with the package, and beside them a record of their training: commands, time, metrics."""

    path: Path
    # Where the file holds a mask head alone: the shipped detector that it stands on, and the model that both make.
    detector: str | None = None
    model: str | None = None

    @property
    def bytes(self) -> int:
        """Of all that is read."""
        below = 0 if self.detector is None else SHIPPED[self.detector].bytes
        return self.path.stat().st_size + below

    @property
    def record(self) -> dict[str, Any]:
        """How they came to be, and what they reach."""
        text = self.path.with_suffix(".json").read_text(encoding="utf-8")
        record: dict[str, Any] = json.loads(text)
        return record


def _beside(name: str) -> Path:
    return Path(__file__).with_name(f"{name}.safetensors")


# All of the same data: a small DINO, its mask head, and the plain small DETR that it is compared with.
SHIPPED = {
    "shapes": Shipped(_beside("shapes")),
    "shapes-masks": Shipped(_beside("shapes-masks"), "shapes", "dino-tiny-masks"),
    "shapes-detr": Shipped(_beside("shapes-detr")),
}
