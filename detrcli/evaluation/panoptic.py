"""Panoptic quality (arXiv 1801.00868) of what a model finds, or of COCO's results: a JSON and a folder of PNGs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np

from detrcli.data.panoptic_maps import map_folders
from detrcli.errors import DataError, MachineError
from detrcli.evaluation.class_mapping import UNKNOWN_CLASS
from detrcli.evaluation.truth import Truth
from detrcli.run_lengths import encode
from detrcli.segmentation.maps import PanopticMap
from detrcli.system.text import normalize_name


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

    def document(self) -> dict[str, Any]:
        """The numbers in plain values."""
        return {
            **asdict(self.all),
            "things": asdict(self.things),
            "stuff": asdict(self.stuff),
            "per_class": [asdict(one) for one in self.per_class],
        }


@dataclass(frozen=True)
class FoundSegment:
    """One of a picture's map, under the data's own ids."""

    category_id: int
    counts: bytes  # its run lengths


def segments_of(found: PanopticMap) -> list[FoundSegment]:
    """Those of a map whose classes the data has; the pixels of the others belong to nobody."""
    return [
        FoundSegment(one.category_id, encode(found.ids == one.id))
        for one in found.segments
        if one.category_id != UNKNOWN_CLASS
    ]


def can_be_counted() -> bool:
    """Whether there is hotcoco, which counts."""
    return find_spec("hotcoco") is not None


def quality_of(truth: Truth, masks: np.ndarray, found: Mapping[int, Sequence[FoundSegment]]) -> PanopticQuality:
    """How good maps are by the segments of the truth, with their masks (N,); `found` has those of each image."""
    classes = truth.classes
    things = np.ones(len(classes), dtype=bool) if classes.things is None else classes.things
    # Counted from 1 in the order of their ids, which need not be such as are counted with.
    places = {image: place for place, image in enumerate(truth.image_ids.tolist(), 1)}
    numbers = {category: number for number, category in enumerate(classes.ids.tolist(), 1)}
    images = [
        {"id": place, "height": height, "width": width} for place, (height, width) in enumerate(truth.sizes.tolist(), 1)
    ]
    sizes = dict(zip(places, truth.sizes.tolist(), strict=True))
    categories = [
        {"id": number, "name": name, "isthing": int(thing)}
        for number, (name, thing) in enumerate(zip(classes.names.tolist(), things, strict=True), 1)
    ]

    def document(rows: Iterable[tuple[int, int, Sequence[int], bytes, bool]]) -> dict[str, Any]:
        annotations = [
            {
                "id": id_,
                "image_id": places[image],
                "category_id": numbers[category],
                "iscrowd": int(crowd),
                "segmentation": {"size": list(size), "counts": counts.decode("ascii")},
            }
            for id_, (image, category, size, counts, crowd) in enumerate(rows, 1)
        ]
        return {"images": images, "annotations": annotations, "categories": categories}

    known = document(
        (image, category, mask["size"], mask["counts"], crowd)
        for image, category, mask, crowd in zip(
            truth.of_image.tolist(), truth.of_category.tolist(), masks, truth.crowd.tolist(), strict=True
        )
    )
    seen = document(
        (image, one.category_id, sizes[image], one.counts, False)
        for image, segments in found.items()
        if image in places
        for one in segments
    )
    results = _counted(known, seen)
    per_class: Mapping[int, Mapping[str, Any]] = results["per_class"]
    named = zip(classes.ids.tolist(), classes.names.tolist(), things.tolist(), strict=True)
    return _quality(len(images), results, [(per_class.get(number), *one) for number, one in enumerate(named, 1)])


def _counted(truth: Any, found: Any, **folders: str) -> Mapping[str, Any]:
    from hotcoco.panoptic import PanopticEval

    evaluation = PanopticEval(truth, found, **folders)
    evaluation.evaluate()
    results: Mapping[str, Any] = evaluation.results()
    return results


def _quality(
    images: int, results: Mapping[str, Any], classes: Iterable[tuple[Mapping[str, Any] | None, int, str, bool]]
) -> PanopticQuality:
    """What was counted; of classes by their numbers, ids, names and whether they are things."""
    return PanopticQuality(
        images=images,
        all=Quality(*_three(results["All"])),
        things=Quality(*_three(results["Things"])),
        stuff=Quality(*_three(results["Stuff"])),
        per_class=[
            ClassQuality(*_three(counted), id_, name, thing)
            for counted, id_, name, thing in classes
            if counted is not None and counted["pq"] >= 0
        ],
    )


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
    if not can_be_counted():
        raise MachineError("Panoptic quality is counted by hotcoco, which has no wheel for this platform.")
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
            results = _counted(
                str(truth), str(paired), gt_folder=str(_folder(truth)), pred_folder=str(_folder(predictions))
            )
        except Exception as error:  # whatever hotcoco raises for a file that is not as it should be
            raise DataError(f"{predictions}: it cannot be compared with {truth} ({error!s:.300}).") from None
    per_class: Mapping[int, Mapping[str, Any]] = results["per_class"]
    categories = sorted(known.categories, key=lambda one: one.id)
    return _quality(
        len(known.annotations),
        results,
        [(per_class.get(one.id), one.id, one.name, bool(one.isthing)) for one in categories],
    )


@contextmanager
def _in_ids_of_the_data(known: _File, found: _File, predictions: Path) -> Iterator[Path]:
    """The file of results; where its classes have other ids than the data's of the same names, a changed one."""
    ids = {normalize_name(one.name): one.id for one in known.categories}
    paired = {one.id: ids[normalize_name(one.name)] for one in found.categories if normalize_name(one.name) in ids}
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
    places = map_folders(file)
    return next((place for place in places if place.is_dir()), places[0])


def _read(path: Path) -> _File:
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: not a COCO panoptic file ({error}).") from None
    folder = _folder(path)
    for one in file.annotations:
        map_ = folder / one.file_name
        if not map_.resolve().is_relative_to(folder.resolve()):
            raise DataError(f"{path}: the map {one.file_name} lies outside of its folder.")
        if not map_.is_file():
            raise DataError(f"{path}: the map of image {one.image_id}, {map_}, is not there.")
    return file
