"""Positional encodings of feature cells and boxes, which are added to queries and keys."""

import math

import torch
from torch import Tensor, nn

from detrcli.errors import UsageError
from detrcli.messages import argument


class SinePosition(nn.Module):
    """Sine encoding: half of the channels encode the row, the other half the column.

    Rows and columns are relative to the cells that are not padding: a position in an image has the same encoding at any
    size and padding. `centered` encodes the center of a cell, as in Deformable DETR, and not its far edge, as in DETR.
    """

    def __init__(self, dim: int, temperature: float = 10000, turns: int = 1, *, centered: bool = False) -> None:
        super().__init__()
        self.channels = dim // 2  # per axis
        self.temperature = temperature  # roughly the longest wavelength divided by the shortest
        self.turns = turns  # periods of the shortest wavelength per image
        self.shift = 0.5 if centered else 0.0

    def forward(self, features: Tensor, padding: Tensor | None) -> Tensor:
        """Return the positions (B, dim, h, w) of features (B, C, h, w) with padding (B, h, w)."""
        B, _, h, w = features.shape
        cells = torch.ones(B, h, w, device=features.device) if padding is None else (~padding).float()
        rows, columns = cells.cumsum(1), cells.cumsum(2)  # (B, h, w), from 1
        rows = (rows - self.shift) / (rows[:, -1:] + 1e-6)
        columns = (columns - self.shift) / (columns[:, :, -1:] + 1e-6)
        return self.encode(torch.stack([rows, columns], 3)).permute(0, 3, 1, 2)

    def encode(self, values: Tensor) -> Tensor:
        """Return the concatenated encodings (..., N * dim/2) of N numbers in [0, 1], (..., N)."""
        angle = values * (2 * math.pi * self.turns)
        pair = torch.arange(self.channels // 2, device=values.device)
        wavelength = self.temperature ** (2 * pair / self.channels)  # (dim/4,)
        phase = angle[..., None] / wavelength  # (..., N, dim/4)
        return torch.stack([phase.sin(), phase.cos()], -1).flatten(-3)  # sin and cos alternate


class LearnedPosition(nn.Module):
    """Learned encoding: half of the channels encode the column, the other half the row."""

    MAX_CELLS = 50  # rows and columns, as published

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.rows = nn.Embedding(self.MAX_CELLS, dim // 2)
        self.columns = nn.Embedding(self.MAX_CELLS, dim // 2)

    def forward(self, features: Tensor, padding: Tensor | None) -> Tensor:
        """Return the positions (B, dim, h, w) of features (B, C, h, w)."""
        B, _, h, w = features.shape
        if max(h, w) > self.MAX_CELLS:
            raise UsageError(
                f"Learned positions exist for {self.MAX_CELLS} x {self.MAX_CELLS} feature cells, not {w} x {h}.\n"
                f"Use a smaller {argument('size')}, or a model with sine positions."
            )
        columns = self.columns.weight[:w].T[:, None, :].expand(-1, h, -1)  # (dim/2, h, w)
        rows = self.rows.weight[:h].T[:, :, None].expand(-1, -1, w)  # (dim/2, h, w)
        return torch.cat([columns, rows]).expand(B, -1, -1, -1)
