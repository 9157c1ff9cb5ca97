"""The loss on pictures that are not trained on, to be put beside that of the training."""

import numpy as np
import torch

from detrcli.data.annotations import Annotations
from detrcli.data.dataset import DetectionDataset, Example
from detrcli.inference.detector import Detector
from detrcli.losses.loss import Loss

LEAST, MOST = 8, 32  # pictures, a quarter of the split between these


def validation_loss(detector: Detector, truth: Annotations, loss: Loss) -> float | None:
    """The loss of some pictures as if they were one batch of a step; None where none of them can be read, and for
    networks that know it in training alone.

    They lie evenly over the split, the same at every evaluation, and so does the noise that a model draws. Every
    process of a training must call it.
    """
    if loss.in_training_alone:
        return None
    dataset = DetectionDataset(truth, detector.preprocessing, augmentation="none")
    count = min(len(dataset), max(LEAST, min(MOST, len(dataset) // 4)))
    places = np.linspace(0, len(dataset) - 1, count).astype(int).tolist()
    examples = [one for i in places if isinstance(one := dataset[0, i], Example)]
    if not examples:
        return None
    batches = [[one.target] for one in examples]
    normalizers, total = None, 0.0
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        for one in examples:
            target = one.target.to(detector.device)
            output = detector.output([one.pixels], [target])
            if normalizers is None:
                normalizers = loss.normalizers(output, batches)
            total += float(loss.compute_loss(output, [target], normalizers).total)
    return total
