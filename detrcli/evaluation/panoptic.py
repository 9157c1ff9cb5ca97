"""Panoptic quality (arXiv 1801.00868) of a model's maps, or of COCO panoptic results (JSON and PNG files)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from detrcli.data.panoptic_maps import map_folders
from detrcli.errors import DataError
from detrcli.evaluation.class_mapping import UNKNOWN_CLASS
from detrcli.evaluation.metrics import require_hotcoco
from detrcli.evaluation.truth import Truth
from detrcli.messages import argument
from detrcli.run_lengths import encode
from detrcli.segmentation.maps import PanopticMap
from detrcli.system.text import normalize_name


@dataclass(frozen=True)
class Quality:
    """PQ = SQ * RQ: segmentation quality of the matched segments, times recognition quality. -1 if there are none."""

    PQ: float
    SQ: float
    RQ: float


@dataclass(frozen=True)
class ClassQuality(Quality):
    category_id: int
    label: str
    thing: bool


@dataclass(frozen=True)
class PanopticQuality:
    images: int
    all: Quality  # mean over the classes with segments; `things` and `stuff` are means over those classes
    things: Quality
    stuff: Quality
    per_class: Sequence[ClassQuality]

    def document(self) -> dict[str, Any]:
        quality = {name: value for name, value in asdict(self).items() if name != "images"}
        return {**quality.pop("all"), **quality}


PredictedSegment = tuple[int, bytes]  # category id of the data, and the mask as compressed RLE


def segments_of(map_: PanopticMap) -> list[PredictedSegment]:
    """Return the segments of the classes that the data has; the pixels of other segments count as unlabeled."""
    return [(s.category_id, encode(map_.ids == s.id)) for s in map_.segments if s.category_id != UNKNOWN_CLASS]


def quality_of(truth: Truth, masks: np.ndarray, segments: Mapping[int, Sequence[PredictedSegment]]) -> PanopticQuality:
    """Score predicted `segments` by image id against the truth, whose objects have `masks`, (N,) of RunLengths."""
    classes, size_of = truth.classes, dict(zip(truth.image_ids.tolist(), truth.sizes.tolist(), strict=True))
    things = np.ones(len(classes), dtype=bool) if classes.things is None else classes.things
    named = zip(classes.ids.tolist(), classes.names.tolist(), things.tolist(), strict=True)
    # Ids can exceed hotcoco's integers, so images and classes are numbered from 1 instead.
    numbered = [(number, *row) for number, row in enumerate(named, 1)]
    class_number = {id_: number for number, id_, _, _ in numbered}
    image_number = {image: number for number, image in enumerate(size_of, 1)}

    def coco_document(rows: Iterable[tuple[int, int, bytes, bool]]) -> dict[str, Any]:
        """Return a COCO panoptic document; `rows` are image id, category id, compressed RLE and crowd."""
        return {
            "images": [{"id": image_number[i], "height": h, "width": w} for i, (h, w) in size_of.items()],
            "annotations": [
                {
                    "id": id_, "image_id": image_number[image], "category_id": class_number[category],
                    "iscrowd": int(crowd), "segmentation": {"size": size_of[image], "counts": counts.decode("ascii")},
                }
                for id_, (image, category, counts, crowd) in enumerate(rows, 1)
            ],
            "categories": [{"id": i, "name": name, "isthing": int(thing)} for i, _, name, thing in numbered],
        }  # fmt: skip

    objects = zip(truth.of_image.tolist(), truth.of_category.tolist(), masks, truth.crowd.tolist(), strict=True)
    annotated = coco_document((image, category, mask["counts"], crowd) for image, category, mask, crowd in objects)
    predicted = coco_document(
        (image, *segment, False) for image, found in segments.items() if image in size_of for segment in found
    )
    return _quality(annotated, predicted, len(size_of), numbered)


def _quality(
    truth: Any, predicted: Any, images: int, classes: Iterable[tuple[int, int, str, bool]], **folders: str
) -> PanopticQuality:
    """Score COCO panoptic documents, or files with `folders` of maps; `classes` are (id in these, id, name, thing)."""
    from hotcoco.panoptic import PanopticEval

    evaluation = PanopticEval(truth, predicted, **folders)
    evaluation.evaluate()
    results = evaluation.results()

    def numbers(values: Mapping[str, Any]) -> tuple[float, float, float]:
        return values["pq"], values["sq"], values["rq"]

    all_, things, stuff = (Quality(*numbers(results[name])) for name in ("All", "Things", "Stuff"))
    per_class = [
        ClassQuality(*numbers(values), id_, name, thing)
        for number, id_, name, thing in classes
        if (values := results["per_class"].get(number)) is not None and values["pq"] >= 0
    ]
    return PanopticQuality(images, all_, things, stuff, per_class)


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


class _PanopticFile(msgspec.Struct):
    annotations: list[_Map]
    categories: list[_Category]


def panoptic_quality(truth: Path, predictions: Path) -> PanopticQuality:
    """Score a file of COCO panoptic results, whose classes are mapped by name. Raises DataError for invalid files."""
    require_hotcoco("Panoptic quality")
    annotated, results = _read(truth), _read(predictions)
    predicted = {map_.image_id for map_ in results.annotations}
    if missing := [map_.image_id for map_ in annotated.annotations if map_.image_id not in predicted]:
        raise DataError(
            f"{predictions}: {len(missing):,} of {len(annotated.annotations):,} images have no map, for example image "
            f"{missing[0]}.\nUse the ids of the data: {argument('ids_from', truth)}."
        )
    classes = sorted((c.id, c.id, c.name, bool(c.isthing)) for c in annotated.categories)
    renumbered = _with_ids_of_the_data(annotated, results, predictions)
    folders = {"gt_folder": str(_map_folder(truth)), "pred_folder": str(_map_folder(predictions))}
    try:
        return _quality(str(truth), renumbered, len(annotated.annotations), classes, **folders)
    except Exception as error:  # hotcoco has no exceptions of its own for invalid files
        raise DataError(f"{predictions}: cannot be compared with {truth} ({error!s:.300}).") from None


def _with_ids_of_the_data(truth: _PanopticFile, results: _PanopticFile, predictions: Path) -> Any:
    """Return the path of the results, or their content with the data's ids if these differ for the same names."""
    ids = {normalize_name(category.name): category.id for category in truth.categories}
    names = {category.id: normalize_name(category.name) for category in results.categories}
    id_of = {id_: ids[name] for id_, name in names.items() if name in ids}
    if all(old == new for old, new in id_of.items()):
        return str(predictions)
    document = msgspec.json.decode(predictions.read_bytes())
    for annotation in document["annotations"]:
        for segment in annotation.get("segments_info", []):
            if segment["category_id"] not in id_of:
                raise DataError(
                    f"{predictions}: image {annotation['image_id']} has a segment of category "
                    f"{segment['category_id']}, whose name is not a class of the data."
                )
            segment["category_id"] = id_of[segment["category_id"]]
    return document


def _map_folder(file: Path) -> Path:
    folders = map_folders(file)
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def _read(path: Path) -> _PanopticFile:
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_PanopticFile)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: not a COCO panoptic file ({error}).") from None
    folder = _map_folder(path)
    for map_ in file.annotations:
        map_path = folder / map_.file_name
        if not map_path.resolve().is_relative_to(folder.resolve()):
            raise DataError(f"{path}: the map {map_.file_name} lies outside of its folder.")
        if not map_path.is_file():
            raise DataError(f"{path}: the map of image {map_.image_id}, {map_path}, does not exist.")
    return file
