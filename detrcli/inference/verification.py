"""Comparison of exported models with the plain model, on drawn images in batches of one and of three."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from detrcli.boxes import clip_boxes, to_pixels
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.data.preprocessing import collate, prepare
from detrcli.data.shapes import scene
from detrcli.errors import WeightsError
from detrcli.inference.engines import PlainEngine
from detrcli.messages import argument
from detrcli.structures import Batch, Prediction

TOLERANCE = {"fp32": 1e-4, "bf16": 0.1, "fp16": 0.02}  # maximum difference of probabilities and of boxes in [0, 1]
IMAGE_SIZES = [(480, 640), (100, 1000), (1000, 100)]  # height and width of the images for which an export is verified
DRAWN_SIZE = 200  # of the drawings, before they are resized
CPU = torch.device("cpu")


def input_sizes(checkpoint: Checkpoint) -> list[tuple[int, int]]:
    """Return the distinct input sizes (height, width) of images of IMAGE_SIZES."""
    placements = [checkpoint.preprocessing.resize.place(height, width) for height, width in IMAGE_SIZES]
    return list(dict.fromkeys((placement.height, placement.width) for placement in placements))


Sizes = Sequence[tuple[int, int]]  # height and width of images in pixels


def _batches(checkpoint: Checkpoint) -> Iterator[tuple[Batch, Sizes]]:
    """Yield a drawing of each of IMAGE_SIZES by itself, and three drawings as a batch, with their sizes.

    They are grainy, because equal pixels give equal proposals, whose order depends on the runtime.
    """

    def drawing(number: int, size: tuple[int, int]) -> torch.Tensor:
        drawn = Image.fromarray(scene(0, number, DRAWN_SIZE).pixels).resize(size[::-1], Image.Resampling.BICUBIC)
        grain = np.random.default_rng(number).integers(-16, 17, (*size, 3))
        image = Image.fromarray((np.array(drawn) + grain).clip(0, 255).astype(np.uint8))
        return prepare(image, checkpoint.preprocessing)

    for number, size in enumerate(IMAGE_SIZES):
        yield collate([drawing(number, size)]), [size]
    yield collate([drawing(number, IMAGE_SIZES[0]) for number in range(3)]), [IMAGE_SIZES[0]] * 3


class Exported(Protocol):
    """An engine that runs an exported file."""

    def __call__(self, batch: Batch) -> Prediction: ...

    def run(self, *inputs: np.ndarray) -> Sequence[np.ndarray]:
        """Return the outputs for the inputs, in their order in the file."""


def verify(checkpoint: Checkpoint, engine: Exported, precision: str, *, postprocessing: bool = False) -> float:
    """Compare an engine with the plain model. Raises WeightsError if they differ beyond the tolerance."""
    plain = PlainEngine(checkpoint.model(), CPU)
    largest = 0.0
    for batch, sizes in _batches(checkpoint):
        if postprocessing:
            outputs = engine.run(batch.images.contiguous().numpy(), np.array(sizes, np.float32))
            distance = detection_difference(outputs, plain(batch), sizes, checkpoint)
        else:
            distance = difference(engine(batch), plain(batch), checkpoint)
        if not distance <= TOLERANCE[precision]:  # also for NaN
            count, _, height, width = batch.images.shape
            images = "an image" if count == 1 else f"{count} images"
            raise WeightsError(
                f"{checkpoint.source}: the {precision} export differs from the plain model by {distance:.2g} on "
                f"{images} of {width} x {height} pixels; nothing was written.\n"
                + ("Please report this." if precision == "fp32" else f"Use {argument('precision', 'fp32')}.")
            )
        largest = max(largest, distance)
    return largest


def mask_logits(prediction: Prediction) -> torch.Tensor:
    """Return the mask logits (B, Q, h, w) of all queries."""
    assert prediction.masks is not None
    B, Q = prediction.boxes.shape[:2]
    images = torch.arange(B)[:, None].expand(B, Q).flatten()
    queries = torch.arange(Q)[None].expand(B, Q).flatten()
    masks = prediction.masks(images, queries)
    return masks.reshape(B, Q, *masks.shape[1:])


def difference(a: Prediction, b: Prediction, checkpoint: Checkpoint) -> float:
    """Return the largest difference of a probability, also of mask pixels, or of a box in [0, 1]; NaN if one is NaN.

    Two-stage models select queries from proposals, and proposals with nearly equal scores may change places. If the
    queries differ, they are therefore compared in the one-to-one assignment with the smallest differences.
    """
    # A box around a mask moves by a cell where a logit changes its sign.
    with_boxes = checkpoint.segmentation is None or not checkpoint.segmentation.boxes_around_masks

    def rows(prediction: Prediction) -> torch.Tensor:
        values = [checkpoint.scoring.probabilities(prediction.logits), *([prediction.boxes] if with_boxes else [])]
        if prediction.masks is not None:
            with torch.inference_mode():
                values.append(mask_logits(prediction).sigmoid().flatten(2))
        return torch.cat(values, -1)  # (B, Q, K + 4 + h * w)

    ours, theirs = rows(a), rows(b)
    in_order = float((ours - theirs).abs().max())
    if not in_order > 1e-3:  # also for NaN
        return in_order
    from scipy.optimize import linear_sum_assignment

    distances = torch.cdist(ours, theirs, p=torch.inf)  # (B, Q, Q)
    return max(float(matrix[linear_sum_assignment(matrix)].max()) for matrix in distances)


def detection_difference(
    outputs: Sequence[np.ndarray], prediction: Prediction, sizes: Sizes, checkpoint: Checkpoint
) -> float:
    """Return the largest difference of a score, or of a box in [0, 1], of detections with the same label.

    `outputs` are boxes (B, D, 4) in pixels, scores (B, D) and labels (B, D). Detections with nearly equal scores may
    change places, and the last may change with a detection that is left out.
    """
    selection = checkpoint.scoring.select(prediction.logits)
    distances = []
    for i, (height, width) in enumerate(sizes):
        expected = to_pixels(prediction.boxes[i].float(), height, width)[selection.queries[i]]
        if checkpoint.clips_boxes:
            expected = clip_boxes(expected, height, width)
        scale = np.array([width, height] * 2)
        rows = [
            np.column_stack([boxes / scale, scores, labels])  # (D, 6); a wrong label is a difference of 1 or more
            for boxes, scores, labels in (
                (expected.numpy(), selection.scores[i].numpy(), selection.labels[i].numpy()),
                tuple(output[i] for output in outputs),
            )
        ]
        theirs, ours = (table[np.argsort(-table[:, 4], kind="stable")] for table in rows)
        distance = float(np.abs(theirs - ours).max())
        if distance > 1e-3:
            from scipy.optimize import linear_sum_assignment

            theirs = theirs[theirs[:, 4] > max(theirs[-1, 4], ours[-1, 4]) + 1e-4]
            pairs = np.abs(theirs[:, None] - ours).max(-1)
            distance = float(pairs[linear_sum_assignment(pairs)].max(initial=0.0))
        distances.append(distance)
    return float(np.max(distances))  # NaN if any is
