"""A model is made of weights and has its own tensors."""

from dataclasses import replace

import pytest
import torch
from small import CONFIG, TINY, small_weights

from detrcli.variants.variant import ModelConfig


@pytest.mark.parametrize("config", [CONFIG, TINY], ids=["detr", "detr-tiny"])
def test_training_a_model_leaves_its_weights_as_they_are(config: ModelConfig) -> None:
    weights = small_weights(config)
    before = {name: tensor.clone() for name, tensor in weights.tensors.items()}
    model, other = weights.model(), weights.model()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.add_(1)
    for name, tensor in weights.tensors.items():
        assert torch.equal(tensor, before[name]), name
        assert torch.equal(other.state_dict()[name], before[name]), name
        assert not torch.equal(model.state_dict()[name], before[name]), name


def test_weights_of_another_precision_are_converted() -> None:
    """One copy, by the conversion itself."""
    weights = small_weights()
    half = replace(
        weights,
        tensors={
            name: tensor.bfloat16() if tensor.is_floating_point() else tensor
            for name, tensor in weights.tensors.items()
        },
    )
    for name, tensor in half.model().state_dict().items():
        assert tensor.dtype == weights.tensors[name].dtype
        assert torch.equal(tensor, half.tensors[name].to(tensor.dtype)), name
