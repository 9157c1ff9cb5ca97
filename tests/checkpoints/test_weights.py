"""Weights in memory: what is made of them is of its own."""

import torch
from small import TINY, small_weights

from detrcli.config import LossConfig
from detrcli.resize import ShortestEdge
from detrcli.structures import Batch, Target


def test_training_a_model_changes_no_others() -> None:
    """Neither the weights nor another model of them, nor what batch norm counts in it."""
    checkpoint = small_weights(TINY)
    before = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
    trained, other = checkpoint.model(), checkpoint.model()
    trained.train()
    optimiser = torch.optim.SGD(trained.parameters(), lr=0.1)
    targets = [Target(torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.2, 0.2]]))] * 2
    output = trained(Batch(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), None))
    checkpoint.make_loss().compute_loss(output, targets).total.backward()
    optimiser.step()

    after = trained.state_dict()
    assert not torch.equal(after["class_head.bias"], before["class_head.bias"])
    assert not torch.equal(after["backbone.norm.running_mean"], before["backbone.norm.running_mean"])
    for tensors in (checkpoint.tensors, other.state_dict()):
        assert tensors.keys() == before.keys()
        assert all(torch.equal(tensor, before[name]) for name, tensor in tensors.items())


def test_what_weights_say_of_themselves() -> None:
    checkpoint = small_weights(TINY)
    assert checkpoint.architecture.name == "detr-tiny"
    assert checkpoint.loss == LossConfig()
    assert checkpoint.scoring.num_logits(3) == 4
    assert checkpoint.resized(96, 128).preprocessing.resize == ShortestEdge(96, 128)
    assert checkpoint.resized() == checkpoint
    assert not checkpoint.model().training
