"""Where a feature cell lies: encodings that are added to queries and keys."""

import math

import torch
from torch import Tensor, nn

from detrcli.errors import UsageError


class SinePosition(nn.Module):
    """Sines and cosines of the row in the first half of the channels, of the column in the second.

    Rows and columns are counted over the cells that are not padding, and scaled to `turns` circles, so that the
    same place in a picture has the same code whatever the padding and the size. That is how often the shortest
    wave goes up and down in a picture; the longest is almost `temperature` times as long. A cell's place is its far
    edge, as in DETR, or with `centred` its middle, as in Deformable DETR.
    """

    def __init__(self, dim: int, temperature: float = 10000, turns: int = 1, *, centred: bool = False) -> None:
        super().__init__()
        self.waves = dim // 2  # per axis, sines and cosines together
        self.temperature = temperature
        self.turns = turns
        self.shift = 0.5 if centred else 0.0

    def forward(self, features: Tensor, padding: Tensor | None) -> Tensor:
        """Features (B, C, h, w), of which padding (B, h, w) is none, to positions (B, dim, h, w)."""
        B, _, h, w = features.shape
        cells = torch.ones(B, h, w, device=features.device) if padding is None else (~padding).float()
        rows, columns = cells.cumsum(1), cells.cumsum(2)  # (B, h, w), from 1
        rows = (rows - self.shift) / (rows[:, -1:] + 1e-6)
        columns = (columns - self.shift) / (columns[:, :, -1:] + 1e-6)
        return self.encode(torch.stack([rows, columns], 3)).permute(0, 3, 1, 2)

    def encode(self, places: Tensor) -> Tensor:
        """N numbers in [0, 1], (..., N), to their codes one after the other, (..., N * dim/2)."""
        angle = places * (2 * math.pi * self.turns)
        pair = torch.arange(self.waves // 2, device=places.device)
        wavelength = self.temperature ** (2 * pair / self.waves)  # (dim/4,)
        phase = angle[..., None] / wavelength  # (..., N, dim/4)
        return torch.stack([phase.sin(), phase.cos()], -1).flatten(-3)  # sin and cos in turn


class LearnedPosition(nn.Module):
    """A learned code for every column in the first half of the channels, for every row in the second."""

    LONGEST = 50  # rows and columns, as published

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.rows = nn.Embedding(self.LONGEST, dim // 2)
        self.columns = nn.Embedding(self.LONGEST, dim // 2)

    def forward(self, features: Tensor, padding: Tensor | None) -> Tensor:
        """Features (B, C, h, w) to positions (B, dim, h, w)."""
        B, _, h, w = features.shape
        if max(h, w) > self.LONGEST:
            raise UsageError(
                f"Learned positions reach {self.LONGEST} x {self.LONGEST} feature cells, not {w} x {h}.\n"
                "Use a smaller size, or a model with sine positions."
            )
        columns = self.columns.weight[:w].T[:, None, :].expand(-1, h, -1)  # (dim/2, h, w)
        rows = self.rows.weight[:h].T[:, :, None].expand(-1, -1, w)  # (dim/2, h, w)
        return torch.cat([columns, rows]).expand(B, -1, -1, -1)
