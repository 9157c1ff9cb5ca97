"""Maps in files: a PNG a picture, and a JSON of what is in them. Panoptic ones as COCO keeps them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from detrcli.cli.detections import Result
from detrcli.cli.outputs import different
from detrcli.data.panoptic_maps import ids_to_rgb
from detrcli.data.paths import ImagePath
from detrcli.segmentation.maps import MapKind, PanopticMap, SemanticMap

if TYPE_CHECKING:
    from detrcli.inference.detector import ImageResult
    from detrcli.structures import Classes


def file_of(kind: MapKind) -> str:
    """The name of the JSON; that of the folder beside it, with the PNGs, is the kind's."""
    return f"{kind}.json"


def as_grey(ids: np.ndarray, most: int) -> np.ndarray:
    """Ids (H, W) as grey levels of 8 bits, or of 16 where ids go beyond: `most` is the largest that there can be."""
    return ids.astype(np.uint8 if most < 256 else np.uint16)


def names(named: Sequence[ImagePath]) -> list[Path]:
    """The name of each image's map, relative to the folder of all maps."""
    return different(item.relative.with_suffix(".png") for item in named)


def written(
    names: Sequence[Path], stream: "Iterable[ImageResult]", folder: Path, classes: "Classes"
) -> "Iterator[ImageResult]":
    """The results, each of which has left its map in this folder."""
    from detrcli.render.draw import save

    for name, result in zip(names, stream, strict=True):
        if isinstance(result.map, PanopticMap):
            save(Image.fromarray(ids_to_rgb(result.map.ids)), folder / name)
        elif isinstance(result.map, SemanticMap):
            grey = as_grey(result.map.ids, int(classes.ids.max()))
            save(Image.fromarray(grey), folder / name)
        yield result


def segments_of(found: PanopticMap | SemanticMap) -> list[dict[str, Any]]:
    """What is in a map, as the JSON says it."""
    if isinstance(found, SemanticMap):
        return [{"category_id": one.category_id, "area": one.area, "bbox": list(one.box)} for one in found.regions]
    return [
        {
            "id": one.id,
            "category_id": one.category_id,
            "isthing": int(one.thing),
            "score": round(one.score, 6),
            "area": one.area,
            "bbox": list(one.box),
            "iscrowd": 0,
        }
        for one in found.segments
    ]


def document(
    results: Sequence[Result], names: Mapping[str, Path], classes: "Classes", ids: Mapping[str, int] | None
) -> dict[str, Any]:
    """COCO's panoptic results, and semantic ones likewise. Without ids by files' names images count from 1."""
    images, annotations = [], []
    for number, result in enumerate(results, 1):
        if result.segments is None:
            continue
        image_id = number if ids is None else ids[PurePath(result.file).name]
        images.append({"id": image_id, "file_name": result.file, "width": result.width, "height": result.height})
        annotations.append(
            {"image_id": image_id, "file_name": names[result.file].as_posix(), "segments_info": list(result.segments)}
        )
    things = np.ones(len(classes), dtype=bool) if classes.things is None else classes.things
    categories = [
        {"id": id_, "name": name, "isthing": int(thing)}
        for id_, name, thing in zip(classes.ids.tolist(), classes.names.tolist(), things.tolist(), strict=True)
        if name != "N/A"
    ]
    return {"images": images, "annotations": annotations, "categories": categories}
