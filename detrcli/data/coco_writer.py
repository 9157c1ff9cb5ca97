"""A split as a COCO annotation file."""

from typing import Any

import numpy as np

from detrcli.data.raw_annotations import RawAnnotations


def coco_document(split: RawAnnotations) -> dict[str, Any]:
    """Its images, annotations and categories in plain values; boxes that are none are left out."""
    boxes = np.isfinite(split.boxes).all(1)
    return {
        "images": [
            {"id": id_, "file_name": file, "width": width, "height": height}
            for id_, file, (height, width) in zip(
                split.image_ids.tolist(), split.files, split.sizes.tolist(), strict=True
            )
        ],
        "annotations": [
            {
                "id": int(split.annotation_ids[n]),
                "image_id": int(split.of_image[n]),
                "category_id": int(split.of_category[n]),
                "bbox": split.boxes[n].tolist(),
                "area": float(split.areas[n]),
                "iscrowd": int(split.crowd[n]),
            }
            for n in np.flatnonzero(boxes).tolist()
        ],
        "categories": [
            {"id": id_, "name": name, "supercategory": parent}
            for id_, name, parent in zip(split.category_ids.tolist(), split.names, split.parents, strict=True)
        ],
    }
