"""Feature maps of several resolutions as a single sequence of tokens (section 4.1 of arXiv 2010.04159)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detrcli.model.detr import downsample_padding, tokens
from detrcli.structures import Batch


@dataclass(frozen=True)
class Pyramid:
    """Multi-scale features as S tokens: level by level from the finest, each row by row."""

    tokens: Tensor  # (B, S, C)
    position: Tensor  # (B, S, C)
    padding: Tensor | None  # (B, S)
    shapes: Sequence[tuple[int, int]]  # rows and columns of each level
    valid_ratios: Tensor  # (B, levels, 2), the share of columns and of rows that is not padding

    def on_levels(self, references: Tensor) -> Tensor:
        """Convert references (B, Q, 2 or 4) from [0, 1] of the image to each padded level, (B, Q, levels, 2 or 4)."""
        ratios = self.valid_ratios if references.shape[-1] == 2 else self.valid_ratios.repeat(1, 1, 2)
        return references[:, :, None] * ratios[:, None]

    def cell_centers(self) -> Tensor:
        """Return the center of each token, (B, S, 2), cx and cy in [0, 1] of the image; above 1 in the padding."""
        device, centers = self.valid_ratios.device, []
        for level, (h, w) in enumerate(self.shapes):
            y = (torch.arange(h, device=device) + 0.5) / h
            x = (torch.arange(w, device=device) + 0.5) / w
            center = torch.stack([x.expand(h, w), y[:, None].expand(h, w)], -1).flatten(0, 1)  # (h * w, 2)
            centers.append(center / self.valid_ratios[:, None, level])
        return torch.cat(centers, 1)


class PyramidInput(nn.Module):
    """Projects the backbone's maps to a common width, and adds coarser levels by strided convolutions."""

    def __init__(self, channels: Sequence[int], levels: int, dim: int, position: nn.Module, groups: int = 32) -> None:
        super().__init__()
        of_maps = [nn.Conv2d(wide, dim, 1) for wide in channels[:levels]]
        coarser = [
            nn.Conv2d(channels[-1] if level == len(channels) else dim, dim, 3, stride=2, padding=1)
            for level in range(len(channels), levels)
        ]
        self.projections = nn.ModuleList(
            nn.Sequential(conv, nn.GroupNorm(groups, dim)) for conv in (*of_maps, *coarser)
        )
        self.maps = len(channels)  # the coarsest maps; finer maps are for mask heads
        self.position = position
        self.level_codes = nn.Parameter(nn.init.normal_(torch.empty(levels, dim)))

    def forward(self, maps: Sequence[Tensor], batch: Batch) -> Pyramid:  # maps (B, channels, h, w), the finest first
        maps = maps[-self.maps :]
        sources = iter([*maps, maps[-1]])  # of the first levels; each further level is computed from the level before
        features = maps[0]
        levels, positions, paddings, ratios, shapes = [], [], [], [], []
        for projection, code in zip(self.projections, self.level_codes, strict=True):
            features = projection(next(sources, features))  # (B, C, h, w)
            padding = downsample_padding(batch.padding, features)  # (B, h, w)
            levels.append(tokens(features))
            shapes.append((features.shape[-2], features.shape[-1]))
            positions.append(tokens(self.position(features, padding)).to(code.dtype) + code)
            if padding is None:
                ratios.append(torch.ones(features.shape[0], 2, device=features.device))
            else:
                paddings.append(padding.flatten(1))
                inside = ~padding
                ratios.append(torch.stack([inside[:, 0].float().mean(1), inside[:, :, 0].float().mean(1)], 1))
        return Pyramid(
            tokens=torch.cat(levels, 1),
            position=torch.cat(positions, 1),
            padding=torch.cat(paddings, 1) if paddings else None,
            shapes=shapes,
            valid_ratios=torch.stack(ratios, 1),
        )
