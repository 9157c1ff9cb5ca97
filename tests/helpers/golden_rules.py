"""The reference values in tests/golden, and the rules that define their weights, images and targets.

They were computed with the published implementations. The values of a tensor follow from its published name.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detrcli.data.preprocessing import collate
from detrcli.structures import Batch, Match, Target

GOLDEN = Path(__file__).parents[1] / "golden"

# Tolerances of a correct float32 implementation (the reference's float32 differs from its float64 by 1e-5 at most).
VALUE = 1e-4
PIXEL = 0.02


@dataclass(frozen=True)
class Golden:
    """The inputs and results of a reference model."""

    name: str

    @cached_property
    def facts(self) -> dict[str, Any]:
        return json.loads((GOLDEN / f"{self.name}.json").read_text())

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / f"{self.name}.npz") as file:
            return dict(file)

    def state_dict(self) -> dict[str, Tensor]:
        """The weights under the published names; Deformable DETR and DINO have several names for some tensors."""
        gains, aliases = self.facts["gains"], self.facts.get("aliases", {})
        return {
            name: tensor_by_name(aliases.get(name, name), shape, gains)
            for name, shape in self.facts["state_dict"].items()
            if not name.endswith("num_batches_tracked")
        }

    def batch(self) -> Batch:
        batch = collate([image(i, h, w) for i, (h, w) in enumerate(self.facts["image_sizes"])])
        # With the reference's memory layout: a ReLU of detr-r50-learned-prenorm is so close to its kink that a relative
        # change of the input by 1e-6 changes a gradient by 1.3e-3, in float64 too.
        return replace(batch, images=batch.images.contiguous())

    def targets(self) -> list[Target]:
        counts, sizes = self.facts["targets_per_image"], self.facts["image_sizes"]
        if "--masks" not in self.facts["args"]:
            return [target(i, n) for i, n in enumerate(counts)]
        targets = [target(i, n, classes=250) for i, n in enumerate(counts)]
        return [replace(t, masks=masks(t.boxes, h, w)) for t, (h, w) in zip(targets, sizes, strict=True)]

    def pairs(self, match: Match, layer: int, image: int) -> list[list[int]]:
        """The matched queries of an image, ascending, and their objects."""
        of_layer = match.layer(layer)
        here = of_layer.images == image
        queries, order = of_layer.queries[here].sort()
        objects = of_layer.targets[here][order] - sum(self.facts["targets_per_image"][:image])
        return [queries.tolist(), objects.tolist()]


def tensor_by_name(name: str, shape: list[int], gains: dict[str, float]) -> Tensor:
    rng = np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFFFFFF)
    n = rng.standard_normal(shape).astype(np.float32)
    gain = next((gain for part, gain in gains.items() if part in name), 1)
    parent = name.split(".")[-2]
    if name.endswith("running_var"):
        value = 1 + 0.1 * np.abs(n)
    elif name.endswith("running_mean"):
        value = 0.1 * n
    elif parent == "query_embed":
        value = 3 * n
    elif parent in ("row_embed", "col_embed"):
        value = n
    elif n.ndim == 4 and ("backbone" in name or "input_proj" in name):
        value = (n - n.mean((1, 2, 3), keepdims=True)) * gain / np.sqrt(np.prod(shape[1:]))
    elif n.ndim >= 2:
        value = n * gain / np.sqrt(np.prod(shape[1:]))
    elif name.endswith("sampling_offsets.bias"):
        value = n
    elif name.endswith("bias"):
        value = 0.1 * n
    else:
        value = 1 + 0.1 * n
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def image(i: int, h: int, w: int) -> Tensor:
    y, x = np.meshgrid(np.arange(h, dtype=np.float32) / h, np.arange(w, dtype=np.float32) / w, indexing="ij")
    waves = [
        np.sin(2 * np.pi * ((1 + c + i) * x + (2 + c) * y)) + np.cos(2 * np.pi * ((3 - c) * x * y * (i + 1)))
        for c in range(3)
    ]
    noise = np.random.RandomState(1000 + i).standard_normal((3, h, w))
    return torch.from_numpy((np.stack(waves) + 0.25 * noise).astype(np.float32))


def target(i: int, n: int, classes: int = 91) -> Target:
    r = np.random.RandomState(2000 + i)
    center, size = r.uniform(0.25, 0.75, (n, 2)), r.uniform(0.05, 0.45, (n, 2))
    labels = r.randint(0, classes, (n,))
    boxes = np.concatenate([center, size], 1).astype(np.float32)
    return Target(torch.from_numpy(labels.astype(np.int64)), torch.from_numpy(boxes))


def masks(boxes: Tensor, height: int, width: int) -> Tensor:
    """Each box filled, (n, H, W)."""
    filled = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for mask, (cx, cy, w, h) in zip(filled, boxes.tolist(), strict=True):
        rows = slice(int((cy - h / 2) * height), int((cy + h / 2) * height))
        mask[rows, int((cx - w / 2) * width) : int((cx + w / 2) * width)] = True
    return filled


def without_dropout(model: nn.Module) -> nn.Module:
    """The model in training mode without dropout, as the references were computed."""
    for module in model.train().modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    return model


def close(ours: Tensor | np.ndarray, theirs: np.ndarray, tolerance: float = VALUE) -> None:
    ours = ours.detach().numpy() if isinstance(ours, Tensor) else ours
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


def close_gradients(model: nn.Module, theirs: Mapping[str, float | None]) -> None:
    """Compare the gradients' norms by parameter; None where there is no gradient."""
    ours = {name: None if p.grad is None else p.grad.norm().item() for name, p in model.named_parameters()}
    assert ours.keys() == theirs.keys()
    for name, norm in theirs.items():
        assert (ours[name] is None) == (norm is None), name
        if norm is not None:
            assert abs(ours[name] - norm) <= 1e-3 + 1e-3 * abs(norm), name
