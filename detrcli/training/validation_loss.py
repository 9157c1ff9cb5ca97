"""The loss on the validation split, to compare with the training loss."""

import numpy as np
import torch

from detrcli.data.annotations import Annotations
from detrcli.data.dataset import DetectionDataset, Example
from detrcli.inference.detector import Detector
from detrcli.losses.loss import Loss, StepNormalizers

MIN_IMAGES, MAX_IMAGES = 8, 32  # a quarter of the split within these limits


def validation_loss(detector: Detector, truth: Annotations, loss: Loss) -> float | None:
    """Return the loss of some images as a single batch; None if none is readable, or the loss requires training mode.

    Every evaluation uses the same images, evenly spaced in the split, and the same random numbers. All processes must
    call it.
    """
    if loss.in_training_alone:
        return None
    dataset = DetectionDataset(truth, detector.preprocessing, augmentation="none")
    count = min(len(dataset), max(MIN_IMAGES, min(MAX_IMAGES, len(dataset) // 4)))
    indices = np.linspace(0, len(dataset) - 1, count).astype(int).tolist()
    examples = [example for i in indices if isinstance(example := dataset[0, i], Example)]
    if not examples:
        return None
    step = StepNormalizers.of([[example.target] for example in examples])
    total = 0.0
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        for example in examples:
            target = example.target.to(detector.device)
            output = detector.output([example.pixels], [target])
            total += float(loss.compute_loss(output, [target], step).total)
    return total
