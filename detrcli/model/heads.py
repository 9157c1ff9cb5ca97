"""The prediction heads. The class head is one linear layer, as published, and needs no room of its own."""

from torch import Tensor, nn


class BoxHead(nn.Module):
    """Three linear layers to cx, cy, w, h in [0, 1]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, 4)])

    def forward(self, x: Tensor) -> Tensor:
        """Hidden states (..., C) to boxes (..., 4)."""
        first, second, last = self.layers
        return last(second(first(x).relu()).relu()).sigmoid()
