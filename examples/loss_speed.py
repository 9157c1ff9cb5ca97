"""Measure the time of matching and loss, compared with transformers' loss.

    pip install 'detrcli[bench]' && python examples/loss_speed.py

Six decoder layers of 100 queries and 91 classes, forward and backward, alternating in one process. Both losses must be
equal. Expected speedups for images x objects of 2 x 7, 8 x 20, 16 x 20 and 64 x 7: 3, 6, 10 and 15.
"""

from collections.abc import Callable
from typing import Any

import torch
from timing import compared, in_turn, show
from transformers import DetrConfig
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

from detrcli.architectures import preset
from detrcli.structures import Output, QueryGroup, Target

LAYERS, QUERIES, CLASSES = 6, 100, 91
SIZES = ((2, 7), (8, 20), (16, 20), (64, 7))
ROUNDS = 15


def ways(images: int, objects: int) -> dict[str, Callable[[], float]]:
    """Return both losses on the same predictions and objects."""
    architecture, config = preset("detr-r50")
    loss = architecture.make_loss(config, architecture.loss)
    theirs = DetrConfig(auxiliary_loss=True, use_timm_backbone=False, num_labels=CLASSES)
    logits = torch.randn(LAYERS, images, QUERIES, CLASSES + 1, requires_grad=True)
    box_logits = torch.randn(LAYERS, images, QUERIES, 4, requires_grad=True)
    corners = torch.rand(images, objects, 2, 2).sort(2).values
    boxes = torch.cat([corners.mean(2), corners[:, :, 1] - corners[:, :, 0] + 1e-3], 2)
    labels = torch.randint(0, CLASSES, (images, objects))
    targets = [Target(label, box) for label, box in zip(labels, boxes, strict=True)]
    dicts = [{"class_labels": label, "boxes": box} for label, box in zip(labels, boxes, strict=True)]

    def backward(total: torch.Tensor) -> float:
        logits.grad = box_logits.grad = None
        total.backward()
        return float(total.detach())

    def ours() -> float:
        return backward(loss.compute_loss(Output(QueryGroup("decoder", logits, box_logits.sigmoid())), targets).total)

    def transformers() -> float:
        sigmoid = box_logits.sigmoid()
        total, *_ = ForObjectDetectionLoss(logits[-1], dicts, "cpu", sigmoid[-1], theirs, logits, sigmoid)
        return backward(total)

    assert abs(ours() - transformers()) < 1e-3 * transformers()
    return {f"transformers {images} x {objects}": transformers, f"ours {images} x {objects}": ours}


def main() -> None:
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    for images, objects in SIZES:
        both = ways(images, objects)
        rows += compared(in_turn(both, ROUNDS), next(iter(both)))
    show(rows)


if __name__ == "__main__":
    main()
