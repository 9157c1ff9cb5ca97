"""Panoptic maps as COCO keeps them: a PNG a picture, whose colours are segments, and a JSON of what they are."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from detrcli.cli.detections import Result
from detrcli.data.maps import as_colours

if TYPE_CHECKING:
    from detrcli.inference.detector import ImageResult
    from detrcli.structures import Classes

FOLDER, FILE = "panoptic", "panoptic.json"


def png_of(place: PurePath) -> PurePath:
    """The name of a picture's map, below the folder of all maps."""
    return place.with_suffix(".png")


def written(places: Sequence[Path], stream: "Iterable[ImageResult]", out: Path) -> "Iterator[ImageResult]":
    """The results, each of which has left its map in this folder."""
    from detrcli.render.draw import save

    for place, result in zip(places, stream, strict=True):
        if result.panoptic is not None:
            save(Image.fromarray(as_colours(result.panoptic.ids)), out / FOLDER / png_of(place))
        yield result


def document(
    results: Sequence[Result], places: Mapping[str, Path], classes: "Classes", ids: Mapping[str, int] | None
) -> dict[str, Any]:
    """COCO's panoptic results. Without ids by their files' names images count from 1 in input order."""
    images, annotations = [], []
    for number, result in enumerate(results, 1):
        if result.segments is None:
            continue
        image_id = number if ids is None else ids[PurePath(result.file).name]
        images.append(
            {"id": image_id, "file_name": result.file, "width": result.width, "height": result.height}
        )
        annotations.append(
            {
                "image_id": image_id,
                "file_name": png_of(places[result.file]).as_posix(),
                "segments_info": [
                    {
                        "id": one.id,
                        "category_id": one.category_id,
                        "isthing": int(one.thing),
                        "score": round(one.score, 6),
                        "area": one.area,
                        "bbox": list(one.box),
                        "iscrowd": 0,
                    }
                    for one in result.segments
                ],
            }
        )
    things = np.ones(len(classes), dtype=bool) if classes.things is None else classes.things
    categories = [
        {"id": id_, "name": name, "isthing": int(thing)}
        for id_, name, thing in zip(
            classes.ids.tolist(), classes.names.tolist(), things.tolist(), strict=True
        )
        if name != "N/A"
    ]
    return {"images": images, "annotations": annotations, "categories": categories}
