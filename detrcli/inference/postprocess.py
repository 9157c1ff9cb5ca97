"""From what the heads say to detections in pixels."""

from collections.abc import Sequence

import numpy as np
import torch

from detrcli.boxes import corners
from detrcli.errors import DivergedError
from detrcli.structures import Classes, Detections, Prediction


@torch.no_grad()
def detections(
    prediction: Prediction, sizes: Sequence[tuple[int, int]], classes: Classes, threshold: float = 0.0
) -> list[Detections]:
    """Detections of each image, by falling score; all queries in their order where the threshold is 0.

    `sizes` are the (height, width) in pixels of the images that the boxes shall fit.
    """
    # "No object" takes part in the softmax and not in the choice.
    scores, indices = prediction.logits.float().softmax(-1)[..., :-1].max(-1)  # (B, Q)
    scale = torch.tensor([(w, h, w, h) for h, w in sizes], device=scores.device)  # (B, 4)
    boxes = corners(prediction.boxes.float()) * scale[:, None]  # (B, Q, 4)

    if not (scores.isfinite().all() and boxes.isfinite().all()):
        raise DivergedError(
            "The model's predictions are not finite numbers.\n"
            "Its weights do not fit their config or are broken; in fp16 numbers also overflow: try bf16 or fp32."
        )
    found = []
    for score, index, box in zip(
        scores.cpu().numpy(), indices.cpu().numpy(), boxes.cpu().numpy(), strict=True
    ):
        queries = np.flatnonzero(score >= threshold)
        if threshold > 0:
            queries = queries[np.argsort(-score[queries], kind="stable")]
        found.append(
            Detections(
                boxes=box[queries],
                scores=score[queries],
                category_ids=classes.ids[index[queries]],
                queries=queries,
                labels=classes.names[index[queries]],
            )
        )
    return found
