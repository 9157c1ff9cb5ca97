"""Maps of several resolutions, as one row of tokens (section 4.1 of arXiv 2010.04159)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detrcli.model.detr import downsample_padding, tokens
from detrcli.structures import Batch


@dataclass(frozen=True)
class Pyramid:
    """What the transformer sees: S tokens, level after level, the finest first, each row by row."""

    tokens: Tensor  # (B, S, C)
    position: Tensor  # (B, S, C)
    padding: Tensor | None  # (B, S)
    shapes: Sequence[tuple[int, int]]  # rows and columns of each level
    picture: Tensor  # (B, levels, 2), the share of columns and of rows that is picture and not padding

    def on_levels(self, references: Tensor) -> Tensor:
        """References (B, Q, 2 or 4), as parts of the picture, as parts of each level, (B, Q, levels, 2 or 4)."""
        share = self.picture if references.shape[-1] == 2 else self.picture.repeat(1, 1, 2)
        return references[:, :, None] * share[:, None]

    def cells(self) -> Tensor:
        """Where each token's middle lies, cx and cy as parts of the picture, (B, S, 2): beyond 1 in the padding."""
        device, middles = self.picture.device, []
        for level, (h, w) in enumerate(self.shapes):
            y = (torch.arange(h, device=device) + 0.5) / h
            x = (torch.arange(w, device=device) + 0.5) / w
            middle = torch.stack([x.expand(h, w), y[:, None].expand(h, w)], -1).flatten(0, 1)  # (h * w, 2)
            middles.append(middle / self.picture[:, None, level])
        return torch.cat(middles, 1)


class PyramidInput(nn.Module):
    """The backbone's maps, projected to one width, and coarser ones made from the last of them."""

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
        self.maps = len(channels)  # the coarsest ones; finer ones are for mask heads
        self.position = position
        self.level_codes = nn.Parameter(nn.init.normal_(torch.empty(levels, dim)))

    def forward(self, maps: Sequence[Tensor], batch: Batch) -> Pyramid:
        """Maps (B, channels, h, w), the finest first."""
        maps = maps[-self.maps :]
        projected: list[Tensor] = []
        for level, projection in enumerate(self.projections):
            if level < len(maps):
                projected.append(projection(maps[level]))
            else:
                projected.append(projection(maps[-1] if level == len(maps) else projected[-1]))  # (B, C, h, w)

        rows, positions, paddings, shares = [], [], [], []
        for features, code in zip(projected, self.level_codes, strict=True):
            padding = downsample_padding(batch.padding, features)  # (B, h, w)
            rows.append(tokens(features))
            positions.append(tokens(self.position(features, padding)).to(code.dtype) + code)
            if padding is None:
                shares.append(torch.ones(features.shape[0], 2, device=features.device))
            else:
                paddings.append(padding.flatten(1))
                inside = ~padding
                shares.append(torch.stack([inside[:, 0].float().mean(1), inside[:, :, 0].float().mean(1)], 1))
        return Pyramid(
            tokens=torch.cat(rows, 1),
            position=torch.cat(positions, 1),
            padding=torch.cat(paddings, 1) if paddings else None,
            shapes=[(features.shape[-2], features.shape[-1]) for features in projected],
            picture=torch.stack(shares, 1),
        )
