"""The output of an attention module, computed from the weights that are shown."""

from typing import Any

import torch
from torch import Tensor

from detrcli.model.inspectable import Sampled


def from_points(module: Any, sampled: Sampled, given: dict[str, Any]) -> Tensor:
    """The output of attention by sampled points."""
    total = sampled.weights.flatten(3).sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)
    memory: Tensor = given["encoder_hidden_states"]
    project = hasattr(module, "value_proj")
    values = module.value_proj(memory) if project else memory
    mask = given.get("attention_mask")
    if mask is not None:
        values = values.masked_fill(~mask[..., None], 0.0)
    B, S, C = values.shape
    shapes = [(int(h), int(w)) for h, w in given["spatial_shapes_list"]]
    heads = values.view(B, S, module.n_heads, C // module.n_heads)
    gathered = torch.zeros(B, sampled.points.shape[1], module.n_heads, C // module.n_heads)
    start = 0
    for level, (h, w) in enumerate(shapes):  # point by point, by hand
        map_ = heads[:, start : start + h * w].view(B, h, w, module.n_heads, -1)
        start += h * w
        for point in range(sampled.points.shape[4]):
            places = sampled.points[:, :, :, level, point]  # (B, n, heads, 2)
            share = sampled.weights[:, :, :, level, point, None]
            gathered += share * bilinear(map_, places[..., 0] * w - 0.5, places[..., 1] * h - 0.5)
    flat = gathered.flatten(2)
    return module.output_proj(flat) if project else flat


def bilinear(map_: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Sample a map (B, h, w, heads, c) at places (B, n, heads) in cells; it is 0 outside."""
    B, h, w, heads, c = map_.shape
    sampled = torch.zeros(*x.shape, c)
    image = torch.arange(B)[:, None, None]
    head = torch.arange(heads)[None, None]
    for column, across in ((x.floor(), 1 - (x - x.floor())), (x.floor() + 1, x - x.floor())):
        for row, down in ((y.floor(), 1 - (y - y.floor())), (y.floor() + 1, y - y.floor())):
            inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
            values = map_[image, row.clamp(0, h - 1).long(), column.clamp(0, w - 1).long(), head]
            sampled += (across * down * inside)[..., None] * values
    return sampled


def from_cells(module: Any, shares: Tensor, given: dict[str, Any]) -> Tensor:
    """The output of dense attention with weights (B, heads, A, S)."""
    names = ("value_states", "values", "key_value_states", "encoder_hidden_states", "hidden_states")
    values: Tensor = next(given[name] for name in names if given.get(name) is not None)
    project = getattr(module, "v_proj", getattr(module, "value", None))
    values = values if project is None else project(values)
    B, S, C = values.shape
    heads = shares.shape[1]
    gathered = shares @ values.view(B, S, heads, C // heads).transpose(1, 2)
    flat = gathered.transpose(1, 2).flatten(2)
    for end in ("o_proj", "out_proj", "output_proj"):
        if hasattr(module, end):
            return getattr(module, end)(flat)
    return flat
