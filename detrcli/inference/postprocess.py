"""From what the heads say to detections in pixels."""

from collections.abc import Sequence

import numpy as np
import torch

from detrcli.boxes import to_pixels
from detrcli.config import Preprocessing
from detrcli.errors import DivergedError
from detrcli.inference.masks import masks_of_queries
from detrcli.losses.scoring import Scoring
from detrcli.structures import Classes, Detections, Prediction


@torch.no_grad()
def detections(
    prediction: Prediction,
    sizes: Sequence[tuple[int, int]],
    classes: Classes,
    scoring: Scoring,
    preprocessing: Preprocessing,
    threshold: float = 0.0,
) -> list[Detections]:
    """Detections of each image, by falling score; with a threshold of 0 all that the scoring selects, in its order.

    `sizes` are the (height, width) in pixels of the images that the boxes shall fit.
    """
    chosen = scoring.select(prediction.logits)
    found = []
    for i, (height, width) in enumerate(sizes):
        queries, labels = chosen.queries[i].cpu().numpy(), chosen.labels[i].cpu().numpy()
        scores = chosen.scores[i].float().cpu().numpy()
        placement = preprocessing.resize.place(height, width)
        boxes = to_pixels(prediction.boxes[i].float(), height, width, placement).cpu().numpy()  # (Q, 4)
        if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
            raise DivergedError(
                "The model's predictions are not finite numbers.\n"
                "Its weights do not fit their config or are broken; in fp16 numbers also overflow: try bf16 or fp32."
            )
        kept = np.flatnonzero(scores >= threshold)
        if threshold > 0:
            kept = kept[np.argsort(-scores[kept], kind="stable")]
        masks = None
        if prediction.masks is not None:
            # A query may stand in several detections and has one mask.
            asked, places = np.unique(queries[kept], return_inverse=True)
            wanted = chosen.queries.new_tensor(asked)
            masks = masks_of_queries(prediction.masks, i, wanted, (height, width), placement)[places]
        found.append(
            Detections(
                boxes=boxes[queries[kept]],
                scores=scores[kept],
                category_ids=classes.ids[labels[kept]],
                queries=queries[kept],
                labels=classes.names[labels[kept]],
                masks=masks,
            )
        )
    return found
