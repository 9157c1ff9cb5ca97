"""Weights in memory: what is made of them is of its own."""

import torch
from small import TINY, small_weights

from detrcli.config import LossConfig
from detrcli.resize import ShortestEdge
from detrcli.structures import Batch, Target


def test_training_a_model_changes_no_others() -> None:
    """Neither the weights nor another model of them, nor what batch norm counts in it."""
    weights = small_weights(TINY)
    before = {name: tensor.clone() for name, tensor in weights.tensors.items()}
    trained, other = weights.model(), weights.model()
    trained.train()
    optimiser = torch.optim.SGD(trained.parameters(), lr=0.1)
    targets = [Target(torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.2, 0.2]]))] * 2
    output = trained(Batch(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), None))
    weights.make_loss().compute_loss(output, targets).total.backward()
    optimiser.step()

    after = trained.state_dict()
    assert not torch.equal(after["class_head.bias"], before["class_head.bias"])
    assert not torch.equal(after["backbone.norm.running_mean"], before["backbone.norm.running_mean"])
    for tensors in (weights.tensors, other.state_dict()):
        assert tensors.keys() == before.keys()
        assert all(torch.equal(tensor, before[name]) for name, tensor in tensors.items())


def test_what_weights_say_of_themselves() -> None:
    weights = small_weights(TINY)
    assert weights.variant.name == "detr-tiny"
    assert weights.loss == LossConfig()
    assert weights.scoring.rows(3) == 4
    assert weights.resized(96, 128).preprocessing.resize == ShortestEdge(96, 128)
    assert weights.resized() == weights
    assert not weights.model().training
