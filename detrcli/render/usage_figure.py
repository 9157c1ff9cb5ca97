"""The use of queries over a split, as in figure 7 of the paper, with the hardest objects; and over a training run."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from detrcli.inspection.usage import SMALL, HardExample, Usage
from detrcli.render.color import BLUE, GREEN, PALETTE, VERMILION, Color
from detrcli.render.draw import Mark, default_font, grid_figure, legend, mark, stacked
from detrcli.render.plot import Panel, plot

TILE, GAP, TEXT = 104, 12, 12
COLUMNS = 10
HARD_COLUMNS, HARD_CELL = 4, 320
MANY = 40  # examples from which on there are twice as many columns
CONTEXT = 3.0  # side of the region around an object, relative to its longer side
MIN_CONTEXT = 0.25  # relative to the image's shorter side
SIZE_COLORS: dict[str, Color] = {"small": GREEN, "large and wide": VERMILION, "large and tall": BLUE}


def usage_figure(usage: Usage, image: Callable[[int], Image.Image]) -> Image.Image:
    """Return the atlas of queries above the objects with the largest losses; `image` opens an image by its index."""
    parts = [atlas(usage)]
    if usage.worst:
        text = "objects with the largest losses, and the predictions of their queries"
        parts += [stacked([legend([(None, text)], 0, TEXT + 3)], margin=GAP), _hard_examples(usage.worst, image)]
    return stacked(parts)


def atlas(usage: Usage) -> Image.Image:
    """Return a tile for each query: the centers of all its boxes, colored by their size."""
    queries, counts = len(usage.boxes), usage.used.sum(1)
    columns = min(COLUMNS, queries)
    across, down = TILE + GAP, TILE + GAP + TEXT + 6
    tiles = Image.new("RGB", (columns * across + GAP, -(-queries // columns) * down + GAP), "white")
    draw, font = ImageDraw.Draw(tiles), default_font(TEXT)
    for query, boxes in enumerate(usage.boxes):
        x, y = GAP + query % columns * across, query // columns * down
        tiles.paste(query_tile(boxes, usage.image_sizes), (x, y))
        caption = f"{query}: {counts[query]:,}" if counts[query] else f"{query}: none"
        draw.text((x + TILE / 2, y + TILE + 3), caption, fill="black", font=font, anchor="ma")
    text = f"all boxes of each query in {usage.images:,} images; below, the number of objects it was matched to"
    entries = [*((color, name) for name, color in SIZE_COLORS.items()), (None, text)]
    return stacked([stacked([legend(entries, tiles.width - 2 * GAP, TEXT)], margin=GAP), tiles])


def query_tile(boxes: np.ndarray, sizes: np.ndarray) -> Image.Image:
    """Return a tile with a point for each box (I, 4) of a query; `sizes` (I, 2) are those of the images."""
    scale = 4  # drawn larger, so that points are round
    tile = Image.new("RGB", (scale * TILE, scale * TILE), (240, 240, 240))
    draw = ImageDraw.Draw(tile)
    radius = scale * (1.8 if len(boxes) <= 500 else 1.0)
    heights, widths = sizes.T
    small = boxes[:, 2] * boxes[:, 3] * widths * heights <= SMALL
    wide = boxes[:, 2] * widths >= boxes[:, 3] * heights
    colors = list(SIZE_COLORS.values())
    for (x, y), kind in zip(
        (scale * TILE * boxes[:, :2]).tolist(), np.where(small, 0, np.where(wide, 1, 2)), strict=True
    ):
        draw.circle((x, y), radius, fill=colors[kind])
    return tile.resize((TILE, TILE), Image.Resampling.LANCZOS)


def _hard_examples(examples: Sequence[HardExample], image: Callable[[int], Image.Image]) -> Image.Image:
    cells = []
    for example in examples:
        whole, known = image(example.image_index), example.document
        cx, cy, w, h = np.array(known["box"]) * ([whole.width, whole.height] * 2)
        side = max(CONTEXT * max(w, h), MIN_CONTEXT * min(whole.size))
        left, top = max(0, round(cx - side / 2)), max(0, round(cy - side / 2))
        right, bottom = min(whole.width, round(cx + side / 2)), min(whole.height, round(cy + side / 2))
        box = (cx - w / 2 - left, cy - h / 2 - top, cx + w / 2 - left, cy + h / 2 - top)
        region = whole.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
        predicted = f"{known['says']['label']} {known['score']:.2f}"
        caption = f"loss {example.loss:.1f}, image {known['image']['id']}: {predicted}"
        cells.append((mark(region, [Mark(box, known["label"], known["category_id"])]), caption))
    return grid_figure(cells, columns=HARD_COLUMNS * (1 if len(cells) <= MANY else 2), cell=HARD_CELL)


def instability_figure(
    epochs: Sequence[int], shares: np.ndarray, curves: Mapping[str, Sequence[tuple[float, float]]]
) -> Image.Image:
    """Return a plot of the shares (E, L) of objects that changed their query, beside other curves of the training."""
    layers = shares.shape[1]
    shown = np.linspace(0, layers - 1, min(layers, len(PALETTE))).round().astype(int).tolist()
    by_layer = {str(layer): list(zip(epochs, (100 * shares[:, layer]).tolist(), strict=True)) for layer in shown}
    panels = [
        Panel("objects with another query, %, by layer", "epoch", by_layer, y_min=0),
        *(Panel(name, "epoch", {name: curve}, y_min=0) for name, curve in curves.items()),
    ]
    return plot(panels, columns=len(panels))
