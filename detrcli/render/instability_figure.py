"""How steady the matching became in a training, beside its loss."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from detrcli.render.plot import COLOURS, Panel, plot

Curve = Sequence[tuple[float, float]]


def instability_figure(epochs: Sequence[int], shares: np.ndarray, curves: Mapping[str, Curve]) -> Image.Image:
    """Shares (E, L) of the objects that changed their query, a curve a layer; beside them other curves."""
    by_layer = {
        str(layer): [(epoch, 100 * share) for epoch, share in zip(epochs, shares[:, layer], strict=True)]
        for layer in _shown(shares.shape[1])
    }
    panels = [
        Panel("another query, %, by layer", "epoch", by_layer, least=0),
        *(Panel(name, "epoch", {name: curve}, least=0) for name, curve in curves.items()),
    ]
    return plot(panels, columns=len(panels))


def _shown(layers: int) -> list[int]:
    """All, or as many as there are colours, evenly from the first to the last."""
    return sorted({round(i) for i in np.linspace(0, layers - 1, min(layers, len(COLOURS)))})
