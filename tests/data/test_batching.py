"""Batches: sizes, padding, and memory in which convolutions are fast."""

import pytest
import torch

from detrcli.data.batching import collate


@pytest.mark.parametrize("sizes", [[(40, 60)], [(40, 60), (40, 60)], [(40, 60), (30, 64)]])
@pytest.mark.parametrize("last", [True, False])
def test_a_convolution_takes_channels_last(sizes: list[tuple[int, int]], last: bool) -> None:
    """Whatever layout the pictures came in; torch goes by strides, also where a batch of one leaves them open."""
    images = [torch.rand(h, w, 3).permute(2, 0, 1) if last else torch.rand(3, h, w) for h, w in sizes]
    batch = collate(images)
    for image, one in zip(images, batch.images, strict=True):
        _, h, w = image.shape
        assert torch.equal(one[:, :h, :w], image)
        assert not one[:, h:].any()
        assert not one[:, :, w:].any()
    assert (batch.padding is None) == (len(set(sizes)) == 1)
    out = torch.nn.Conv2d(3, 8, 3)(batch.images)
    assert out.stride()[1] == 1
