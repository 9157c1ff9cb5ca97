"""From what the heads say to detections in pixels."""

from collections.abc import Sequence

import numpy as np
import torch

from detrcli.boxes import to_pixels
from detrcli.config import Preprocessing
from detrcli.errors import NOT_FINITE, DivergedError
from detrcli.losses.scoring import Scoring
from detrcli.segmentation.maps import Predicted, Segmentation
from detrcli.structures import Classes, Detections, Prediction


@torch.no_grad()
def detections(
    prediction: Prediction,
    sizes: Sequence[tuple[int, int]],
    classes: Classes,
    scoring: Scoring,
    preprocessing: Preprocessing,
    threshold: float = 0.0,
    segmentation: Segmentation | None = None,
) -> list[Detections]:
    """Detections of each image, by falling score; with a threshold of 0 all that the scoring selects, in its order.

    `sizes` are the (height, width) in pixels of the images that the boxes shall fit. With a segmentation detections
    have masks.
    """
    chosen = scoring.select(prediction.logits)
    found = []
    for i, (height, width) in enumerate(sizes):
        queries, labels = chosen.queries[i].cpu().numpy(), chosen.labels[i].cpu().numpy()
        scores = chosen.scores[i].float().cpu().numpy()
        placement = preprocessing.resize.place(height, width)
        boxes = to_pixels(prediction.boxes[i].float(), height, width, placement).cpu().numpy()  # (Q, 4)
        if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
            raise DivergedError(NOT_FINITE)
        kept = np.flatnonzero(scores >= threshold)
        own = Detections(
            boxes=boxes[queries[kept]],
            scores=scores[kept],
            category_ids=classes.ids[labels[kept]],
            queries=queries[kept],
            labels=classes.names[labels[kept]],
        )
        if segmentation is not None:
            seen = Predicted(prediction, i, (height, width), placement)
            own = segmentation.with_masks(own, seen, threshold)
        if threshold > 0:
            own = own.part(np.argsort(-own.scores, kind="stable"))
        found.append(own)
    return found
