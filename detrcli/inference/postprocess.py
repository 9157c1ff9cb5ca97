"""From predictions to detections in pixels."""

from collections.abc import Sequence

import numpy as np
import torch

from detrcli.boxes import to_pixels
from detrcli.config import Preprocessing
from detrcli.errors import NOT_FINITE, DivergedError
from detrcli.losses.scoring import Scoring
from detrcli.segmentation.segmentation import Predicted, Segmentation
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
    """Return the detections of each image, sorted by falling score.

    `sizes` are the (height, width) of the images in pixels. With a threshold of 0 all queries that the scoring selects
    are returned, in its order. Detections have masks if a segmentation is given.
    """
    selection = scoring.select(prediction.logits)
    results = []
    for i, (height, width) in enumerate(sizes):
        queries, labels = selection.queries[i].cpu().numpy(), selection.labels[i].cpu().numpy()
        scores = selection.scores[i].float().cpu().numpy()
        placement = preprocessing.resize.place(height, width)
        boxes = to_pixels(prediction.boxes[i].float(), height, width, placement).cpu().numpy()  # (Q, 4), xyxy
        if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
            raise DivergedError(NOT_FINITE)
        kept = np.flatnonzero(scores >= threshold)
        result = Detections(
            boxes=boxes[queries[kept]],
            scores=scores[kept],
            category_ids=classes.ids[labels[kept]],
            queries=queries[kept],
            labels=classes.names[labels[kept]],
        )
        if segmentation is not None:
            result = segmentation.with_masks(result, Predicted(prediction, i, (height, width), placement), threshold)
        if threshold > 0:
            result = result.part(np.argsort(-result.scores, kind="stable"))
        results.append(result)
    return results
