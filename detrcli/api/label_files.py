"""Datasets for other tools, written from detections: YOLO, Pascal VOC, Label Studio and FiftyOne."""

import json
import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from detrcli.api.prediction_files import Destination, Item, Writer
from detrcli.api.predictions import coco_rows
from detrcli.data.layouts import label_studio, voc, yolo
from detrcli.inference.stream import ImageResult
from detrcli.polygons import joined
from detrcli.structures import Detections

LabelFormat = Literal["yolo", "voc", "labelstudio", "fiftyone"]


@dataclass(frozen=True)
class _Labels(Writer):
    """Labels for another tool, with copies of the images if requested."""

    confidences: bool  # in label files that need not contain them
    copy_images: bool

    def paths(self, item: Item) -> Iterator[Path]:
        if self.copy_images:
            yield self.image_path(item)

    def image_path(self, item: Item) -> Path:
        """Return the path of the image's copy."""
        return Path("images", f"{item.name}{item.path.suffix}")

    def write(self, to: Destination, item: Item, result: ImageResult) -> Any:
        if self.copy_images:
            to.write(self.image_path(item), item.path.read_bytes())
        assert result.size is not None
        return self.write_labels(to, item, to.objects(result), result.size)

    @abstractmethod
    def write_labels(self, to: Destination, item: Item, objects: Detections, size: tuple[int, int]) -> Any:
        """Write the labels of an image of this (height, width), or return its entry in a document."""

    def scores(self, objects: Detections) -> list[float | None]:
        return objects.scores.tolist() if self.confidences else [None] * len(objects)


class _Yolo(_Labels):
    shared = ("data.yaml",)

    def paths(self, item: Item) -> Iterator[Path]:
        yield self._label_path(item)
        yield from super().paths(item)

    def _label_path(self, item: Item) -> Path:
        return yolo.label_path(self.image_path(item))

    def write_labels(self, to: Destination, item: Item, objects: Detections, size: tuple[int, int]) -> None:
        polygons: list[list[int]] = [[]] * len(objects)
        if objects.masks is not None:
            polygons = [joined(parts) if (parts := objects.masks.polygons(i)) else [] for i in range(len(objects))]
        indices = [to.index[id_] for id_ in objects.category_ids.tolist()]
        columns = zip(indices, objects.boxes.tolist(), polygons, self.scores(objects), strict=True)
        lines = [yolo.label_line(index, size, box, polygon, score) for index, box, polygon, score in columns]
        to.write(self._label_path(item), "".join(lines).encode())

    def finish(self, to: Destination, entries: Sequence[Any]) -> None:
        to.write("data.yaml", yolo.data_yaml(list(to.names.values()), "images").encode())


class _Voc(_Labels):
    def paths(self, item: Item) -> Iterator[Path]:
        yield self._label_path(item)
        yield from super().paths(item)

    def _label_path(self, item: Item) -> Path:
        return Path("Annotations", f"{item.flat_name}.xml")

    def image_path(self, item: Item) -> Path:
        return Path("JPEGImages", f"{item.flat_name}{item.path.suffix}")

    def write_labels(self, to: Destination, item: Item, objects: Detections, size: tuple[int, int]) -> None:
        names = [to.names[id_] for id_ in objects.category_ids.tolist()]
        rows = zip(names, objects.boxes.tolist(), self.scores(objects), strict=True)
        to.write(self._label_path(item), voc.annotation_xml(self.image_path(item).name, size, rows))


class _LabelStudio(_Labels):
    shared = ("tasks.json", "config.xml")
    has_document = True

    def write_labels(self, to: Destination, item: Item, objects: Detections, size: tuple[int, int]) -> dict[str, Any]:
        path = self.image_path(item)
        if not self.copy_images:  # the document root is that of the file system
            original = Path(os.path.abspath(item.path))
            path = original.relative_to(original.anchor)
        shapes = [
            label_studio.Shape(
                to.names[int(objects.category_ids[i])],
                float(objects.scores[i]),
                objects.boxes[i].tolist(),
                [] if objects.masks is None else objects.masks.polygons(i),
            )
            for i in range(len(objects))
        ]
        return label_studio.task(label_studio.image_url(path), item.index + 1, size, shapes, to.weights)

    def finish(self, to: Destination, entries: Sequence[Any]) -> None:
        to.write("tasks.json", json.dumps(list(entries), indent=1).encode())
        to.write("config.xml", label_studio.interface(list(dict.fromkeys(to.names.values())), entries))


class _FiftyOne(_Labels):
    """FiftyOne's COCODetectionDataset, in which a detection may have a score and a mask."""

    shared = ("labels.json",)
    has_document = True

    def image_path(self, item: Item) -> Path:
        return Path("data", f"{item.name}{item.path.suffix}")

    def write_labels(self, to: Destination, item: Item, objects: Detections, size: tuple[int, int]) -> dict[str, Any]:
        path = self.image_path(item).relative_to("data") if self.copy_images else Path(os.path.abspath(item.path))
        rows = [
            {"image_id": item.image_id, **row, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
            for row in coco_rows(objects)
        ]
        return {"image": item.document(path.as_posix(), size), "rows": rows}

    def finish(self, to: Destination, entries: Sequence[Any]) -> None:
        rows = [row for entry in entries for row in entry["rows"]]
        document = {
            "info": {"description": f"Predictions of {to.weights}"},
            "images": [entry["image"] for entry in entries],
            "annotations": [{"id": number, **row} for number, row in enumerate(rows, 1)],
            "categories": [{"id": id_, "name": name, "supercategory": ""} for id_, name in to.names.items()],
        }
        to.write("labels.json", json.dumps(document).encode())


LABELS: dict[LabelFormat, type[_Labels]] = {
    "yolo": _Yolo,
    "voc": _Voc,
    "labelstudio": _LabelStudio,
    "fiftyone": _FiftyOne,
}
