"""Published models of transformers' families, by short names: a row each in catalog.csv.

It imports no torch. AP, latency and sizes are the authors' own figures and were not measured here.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

RF_DETR_FILES = "https://storage.googleapis.com/rfdetr/"
HUB = "hf:"
APACHE, MIT = "Apache-2.0", "MIT"
EXTRA = "models"  # of this package: what all of these models need


@dataclass(frozen=True)
class PublishedFamily:
    """Facts that the published models of a family share."""

    title: str
    task: str  # what they detect, as a heading
    ap_of: str  # what their AP is measured on
    ap_source: str
    base: str = HUB  # of the sources
    license: str = APACHE
    device: str = ""  # of the latency
    latency_source: str = ""
    phrases: bool = False


@dataclass(frozen=True)
class NamedModel:
    """A published model: the source of its weights, and the figures that its authors publish."""

    name: str
    family: PublishedFamily
    source: str  # hf:OWNER/NAME, or the address of a file
    input: str  # HEIGHTxWIDTH, or SHORTER/LONGER for a shorter side and the maximum of the longer side
    ap: float | None  # in percent
    megabytes: float | None
    latency_ms: float | None  # per image
    md5: str | None  # of a file

    @property
    def repository(self) -> str | None:
        """The repository on the hub; None for files of other servers."""
        return self.source.removeprefix(HUB) if self.source.startswith(HUB) else None

    @property
    def license(self) -> str:
        return self.family.license

    @property
    def phrases(self) -> bool:
        """Whether it detects phrases."""
        return self.family.phrases


BOXES, MASKS = "objects of COCO's classes", "objects and masks of COCO's classes"
PHRASES, OTHERS = "phrases that you give", "tables, and objects of other datasets"
TASKS = (BOXES, MASKS, PHRASES, OTHERS)
_COCO, _COCO_MASKS = "boxes, COCO val2017", "masks, COCO val2017"
_T4, _V100 = "T4, TensorRT FP16", "V100, PyTorch"
_RF, _RT = "rfdetr.roboflow.com and the pages of rfdetr 1.0 and 1.3", "README of github.com/lyuwenyu/RT-DETR"
_D_FINE, _LW = "README of github.com/Peterande/D-FINE", "README of github.com/Atten4Vis/LW-DETR"
_DEIMV2 = "README of github.com/Intellindust-AI-Lab/DEIMv2"
_DEFORMABLE = "README of github.com/fundamentalvision/Deformable-DETR"
_NOT_STATED = "not stated"
# fmt: off
FAMILIES = {
    "rf_detr": PublishedFamily("RF-DETR", BOXES, _COCO, _RF, RF_DETR_FILES, APACHE, _T4, _RF),
    "rf_detr_seg": PublishedFamily("RF-DETR with masks", MASKS, _COCO_MASKS, _RF, RF_DETR_FILES, APACHE, _T4, _RF),
    "rf_detr_o365": PublishedFamily("RF-DETR", OTHERS, "Objects365", "", RF_DETR_FILES),
    "rt_detr": PublishedFamily("RT-DETR", BOXES, _COCO, _RT, HUB, APACHE, _T4, _RT),
    "rt_detr_v2": PublishedFamily("RT-DETRv2", BOXES, _COCO, _RT, HUB, APACHE, _T4, _RT),
    "d_fine": PublishedFamily("D-FINE", BOXES, _COCO, _D_FINE, HUB, APACHE, _T4, _D_FINE),
    "lw_detr": PublishedFamily("LW-DETR", BOXES, _COCO, _LW, HUB, APACHE, f"{_NOT_STATED}, TensorRT", _LW),
    "deimv2": PublishedFamily("DEIMv2", BOXES, _COCO, _DEIMV2, HUB, APACHE, _NOT_STATED, _DEIMV2),
    "deformable_detr": PublishedFamily(
        "Deformable DETR", BOXES, _COCO, _DEFORMABLE, HUB, APACHE, _V100, _DEFORMABLE
    ),
    "conditional_detr": PublishedFamily(
        "Conditional DETR", BOXES, _COCO, "README of github.com/Atten4Vis/ConditionalDETR"
    ),
    "dab-detr": PublishedFamily("DAB-DETR", BOXES, _COCO, "README of github.com/IDEA-Research/DAB-DETR"),
    "yolos": PublishedFamily("YOLOS", BOXES, _COCO, "README of github.com/hustvl/YOLOS"),
    "table-transformer": PublishedFamily(
        "Table Transformer", OTHERS, "boxes, PubTables-1M", "README of github.com/microsoft/table-transformer",
        license=MIT,
    ),
    "grounding-dino": PublishedFamily(
        "Grounding DINO", PHRASES, "boxes, COCO val2017; without training on COCO (tiny)",
        "README of github.com/IDEA-Research/GroundingDINO", phrases=True,
    ),
    "owlv2": PublishedFamily("OWLv2", PHRASES, "", "", phrases=True),
    "owlvit": PublishedFamily("OWL-ViT", PHRASES, "", "", phrases=True),
}
# fmt: on


def _read() -> Mapping[str, NamedModel]:
    def number(text: str) -> float | None:
        return float(text) if text else None

    models = {}
    with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            family = FAMILIES[row["family"]]
            source, ap, megabytes, ms = family.base + row["source"], *(number(row[key]) for key in ("AP", "MB", "ms"))
            models[row["name"]] = NamedModel(
                row["name"], family, source, row["input"], ap, megabytes, ms, row["md5"] or None
            )
    return models


CATALOG = dict(_read())
