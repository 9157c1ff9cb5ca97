"""Checkpoints in memory."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from small import TINY, small_weights

from detrcli.config import LossConfig, Preprocessing
from detrcli.errors import UsageError, WeightsError
from detrcli.inference.detector import Detector
from detrcli.resize import MAX_INPUT_PIXELS, ExactSize, ShortestEdge
from detrcli.structures import Batch, Classes, Target


def test_training_a_model_changes_nothing_else() -> None:
    """Neither the checkpoint nor another model of it, nor the statistics of batch norm in it."""
    checkpoint = small_weights(TINY)
    before = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
    trained, other = checkpoint.model(), checkpoint.model()
    trained.train()
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    targets = [Target(torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.2, 0.2]]))] * 2
    output = trained(Batch(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), None))
    checkpoint.make_loss().compute_loss(output, targets).total.backward()
    optimizer.step()

    after = trained.state_dict()
    assert not torch.equal(after["class_head.bias"], before["class_head.bias"])
    assert not torch.equal(after["backbone.norm.running_mean"], before["backbone.norm.running_mean"])
    for tensors in (checkpoint.tensors, other.state_dict()):
        assert tensors.keys() == before.keys()
        assert all(torch.equal(tensor, before[name]) for name, tensor in tensors.items())


def test_properties() -> None:
    checkpoint = small_weights(TINY)
    assert checkpoint.architecture.name == "detr-tiny"
    assert checkpoint.loss == LossConfig()
    assert checkpoint.scoring.num_logits(3) == 4
    assert checkpoint.resized(96, 128).preprocessing.resize == ShortestEdge(96, 128)
    assert checkpoint.resized() == checkpoint
    assert not checkpoint.model().training


def test_every_class_has_a_name() -> None:
    with pytest.raises(WeightsError, match="small: 2 class names for a model with 3"):
        replace(small_weights(TINY), classes=Classes.of([1, 2], ["a", "b"]))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite(value: float) -> None:
    checkpoint = small_weights(TINY)
    bias = checkpoint.tensors["class_head.bias"].clone()
    bias[1] = value
    with pytest.raises(WeightsError, match=r"1 tensors .*class_head\.bias"):
        replace(checkpoint, tensors={**checkpoint.tensors, "class_head.bias": bias}).model()
    bias[:] = torch.finfo(torch.float32).max  # finite, but not their sum
    replace(checkpoint, tensors={**checkpoint.tensors, "class_head.bias": bias}).model()


def test_large_inputs_are_refused_before_they_are_allocated() -> None:
    for rule in (ShortestEdge(30_000, 32_000), ShortestEdge(800, 1333, divisor=30_000), ExactSize(32_768, 32_768)):
        with pytest.raises(UsageError, match=r"33,554,432"):
            Preprocessing(rule)
    largest = Preprocessing(ShortestEdge(4096, 8192))
    assert largest.resize.place(5, 10).height * largest.resize.place(5, 10).width == MAX_INPUT_PIXELS
    with pytest.raises(UsageError, match="33,554,432"):
        Preprocessing(ShortestEdge(5000, 32_768)).resize.place(10, 60)
    # It ends the command instead of skipping the image: other images of its shape would be too large as well.
    detector = Detector(small_weights(TINY).resized(5000, 32_768), "cpu")
    with pytest.raises(UsageError, match="33,554,432"):
        detector.predict(Image.new("RGB", (60, 10)))
