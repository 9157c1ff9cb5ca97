"""How steady the matching became in a training, beside its loss."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from detrcli.plot import COLOURS, Panel, plot

Curve = Sequence[tuple[float, float]]


def steadiness_sheet(epochs: Sequence[int], shares: np.ndarray, curves: Mapping[str, Curve]) -> Image.Image:
    """Shares (E, L) of the objects that changed their query, in percent; and other curves over the epochs."""
    layers = _shown(shares.shape[1])
    panel = Panel(
        "objects with another query, %",
        "epoch",
        {
            f"layer {layer}": [
                (epoch, 100 * share) for epoch, share in zip(epochs, shares[:, layer], strict=True)
            ]
            for layer in layers
        },
        0,
        100,
    )
    return plot([panel, *(Panel(name, "epoch", {name: curve}, least=0) for name, curve in curves.items())], 1)


def _shown(layers: int) -> list[int]:
    """The first, the last and some between, as many as there are colours and names have room."""
    return sorted({round(i) for i in np.linspace(0, layers - 1, min(layers, 3, len(COLOURS)))})
