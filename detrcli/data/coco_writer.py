"""A split as a COCO annotation file."""

import json
from typing import Any

import numpy as np

from detrcli.data.outlines import encoded, mask_of
from detrcli.data.raw_annotations import RawAnnotations


def coco_document(split: RawAnnotations) -> dict[str, Any]:
    """Its images, annotations and categories in plain values; boxes that are none are left out.

    Outlines are kept as they are written; segments of panoptic maps become run lengths.
    """
    boxes = np.isfinite(split.boxes).all(1)
    texts = [b""] * len(boxes) if split.outlines is None else split.outlines.texts()
    sizes = dict(zip(split.image_ids.tolist(), split.sizes.tolist(), strict=True))

    def outline(n: int) -> dict[str, Any]:
        if not texts[n]:
            return {}
        if split.maps is None:
            return {"segmentation": json.loads(texts[n])}
        try:
            return {"segmentation": encoded(mask_of(texts[n], *sizes[int(split.of_image[n])]))}
        except (KeyError, ValueError):  # which the check tells of
            return {}

    return {
        "images": images_document(split),
        "annotations": [
            {
                "id": int(split.annotation_ids[n]),
                "image_id": int(split.of_image[n]),
                "category_id": int(split.of_category[n]),
                "bbox": split.boxes[n].tolist(),
                "area": float(split.areas[n]),
                "iscrowd": int(split.crowd[n]),
                **outline(n),
            }
            for n in np.flatnonzero(boxes).tolist()
        ],
        "categories": [
            {"id": id_, "name": name, "supercategory": parent, **thing}
            for id_, name, parent, thing in zip(
                split.category_ids.tolist(), split.names, split.parents, _things(split), strict=True
            )
        ],
    }


def images_document(split: RawAnnotations) -> list[dict[str, Any]]:
    """Its images alone."""
    return [
        {"id": id_, "file_name": file, "width": width, "height": height}
        for id_, file, (height, width) in zip(split.image_ids.tolist(), split.files, split.sizes.tolist(), strict=True)
    ]


def _things(split: RawAnnotations) -> list[dict[str, int]]:
    if split.things is None:
        return [{}] * len(split.names)
    return [{"isthing": int(thing)} for thing in split.things]
