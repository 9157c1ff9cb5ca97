"""Panoptic quality (arXiv 1801.00868) of COCO's panoptic results: a JSON and a folder of PNGs that has its name."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from detrcli.errors import DataError, MachineError
from detrcli.system.text import key


@dataclass(frozen=True)
class Quality:
    """PQ is the product of SQ, how well segments that are found fit, and RQ, how many are found; -1 of nothing."""

    PQ: float
    SQ: float
    RQ: float


@dataclass(frozen=True)
class ClassQuality(Quality):
    """Of one class."""

    category_id: int
    label: str
    thing: bool


@dataclass(frozen=True)
class PanopticQuality:
    """Of a whole split: means over the classes of which there is anything."""

    images: int
    all: Quality
    things: Quality
    stuff: Quality
    per_class: Sequence[ClassQuality]


class _Category(msgspec.Struct):
    id: int
    name: str
    isthing: int


class _Segment(msgspec.Struct):
    category_id: int


class _Map(msgspec.Struct):
    image_id: int
    file_name: str
    segments_info: list[_Segment] = []


class _File(msgspec.Struct):
    annotations: list[_Map]
    categories: list[_Category]


def panoptic_quality(truth: Path, predictions: Path) -> PanopticQuality:
    """How good these results are by this ground truth, counted by hotcoco; a DataError where a file is not one.

    Classes are paired by their names, as everywhere: many models number theirs from 0.
    """
    if find_spec("hotcoco") is None:
        raise MachineError("Panoptic quality is counted by hotcoco, which has no wheel for this platform.")
    from hotcoco.panoptic import PanopticEval

    known, found = (_read(path) for path in (truth, predictions))
    there = {one.image_id for one in found.annotations}
    missing = [one.image_id for one in known.annotations if one.image_id not in there]
    if missing:
        raise DataError(
            f"{predictions}: {len(missing):,} of {len(known.annotations):,} images have no map, the first of them is "
            f"{missing[0]}.\n`detr predict --format panoptic --ids-from {truth}` gives images the ids of the data."
        )
    with _in_ids_of_the_data(known, found, predictions) as paired:
        try:
            evaluation = PanopticEval(
                str(truth),
                str(paired),
                gt_folder=str(_folder(truth)),
                pred_folder=str(_folder(predictions)),
            )
            evaluation.evaluate()
        except Exception as error:  # whatever hotcoco raises for a file that is not as it should be
            raise DataError(f"{predictions}: it cannot be compared with {truth} ({error!s:.300}).") from None
    results = evaluation.results()
    per_class: Mapping[int, Mapping[str, Any]] = results["per_class"]
    return PanopticQuality(
        images=len(known.annotations),
        all=Quality(*_three(results["All"])),
        things=Quality(*_three(results["Things"])),
        stuff=Quality(*_three(results["Stuff"])),
        per_class=[
            ClassQuality(*_three(per_class[one.id]), one.id, one.name, bool(one.isthing))
            for one in sorted(known.categories, key=lambda one: one.id)
            if one.id in per_class and per_class[one.id]["pq"] >= 0
        ],
    )


@contextmanager
def _in_ids_of_the_data(known: _File, found: _File, predictions: Path) -> Iterator[Path]:
    """The file of results; where its classes have other ids than the data's of the same names, a changed one."""
    ids = {key(one.name): one.id for one in known.categories}
    paired = {one.id: ids[key(one.name)] for one in found.categories if key(one.name) in ids}
    if all(theirs == ours for theirs, ours in paired.items()):
        yield predictions
        return
    for one in found.annotations:
        for segment in one.segments_info:
            if segment.category_id not in paired:
                raise DataError(
                    f"{predictions}: image {one.image_id} has a segment of category {segment.category_id}, and no "
                    "class of the data has its name."
                )
    document = msgspec.json.decode(predictions.read_bytes())
    document["categories"] = msgspec.to_builtins(known.categories)
    for annotation in document["annotations"]:
        for info in annotation.get("segments_info", []):
            info["category_id"] = paired[info["category_id"]]
    with TemporaryDirectory() as place:
        path = Path(place) / predictions.name
        path.write_bytes(msgspec.json.encode(document))
        yield path


def _three(values: Mapping[str, Any]) -> tuple[float, float, float]:
    return values["pq"], values["sq"], values["rq"]


def _folder(file: Path) -> Path:
    return file.with_suffix("")


def _read(path: Path) -> _File:
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: not a COCO panoptic file ({error}).") from None
    for one in file.annotations:
        map_ = _folder(path) / one.file_name
        if not map_.resolve().is_relative_to(_folder(path).resolve()):
            raise DataError(f"{path}: the map {one.file_name} lies outside of its folder.")
        if not map_.is_file():
            raise DataError(f"{path}: the map of image {one.image_id}, {map_}, is not there.")
    return file
