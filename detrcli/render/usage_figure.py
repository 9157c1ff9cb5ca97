"""What every query is for, as in figure 7 of the paper; and the objects that cost the most, to be looked at."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from detrcli.inspection.usage import SMALL, HardExample, Usage
from detrcli.render.colour import Colour
from detrcli.render.draw import Mark, default_font, grid_figure, mark
from detrcli.structures import Classes

TILE, GAP, TEXT = 104, 12, 12
COLUMNS = 10
WORST_COLUMNS, WORST_CELL = 4, 320
MANY = 40  # cells from which there are twice the columns
AROUND = 3.0  # how many times its longer side is shown of an object's surroundings
LEAST_SHARE = 0.25  # and at least this of the picture's shorter side

# Okabe and Ito's, told apart by the colour-blind too.
KINDS: dict[str, Colour] = {"small": (0, 158, 115), "large and wide": (213, 94, 0), "large and tall": (0, 114, 178)}


def usage_figure(usage: Usage, picture: Callable[[int], Image.Image]) -> Image.Image:
    """The atlas, and below it the worst objects; `picture` opens an image by its place in the split."""
    parts = [atlas(usage)]
    if usage.worst:
        parts += [
            _line("the largest losses, wrong labels among them: loss, image, and what the object's query predicts"),
            hard_examples_figure(usage.worst, picture, usage.classes),
        ]
    page = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), "white")
    y = 0
    for part in parts:
        page.paste(part, (0, y))
        y += part.height
    return page


def atlas(usage: Usage) -> Image.Image:
    """A tile for each query: the centres of all its boxes, coloured by their size."""
    queries = len(usage.boxes)
    columns, counts = min(COLUMNS, queries), usage.used.sum(1)
    head = _legend(f"all boxes of each query over {usage.images:,} pictures; below, how many objects it was matched to")
    across, down = TILE + GAP, TILE + GAP + TEXT + 6
    rows = -(-queries // columns)
    page = Image.new("RGB", (max(columns * across + GAP, head.width), head.height + rows * down + GAP), "white")
    page.paste(head, (0, 0))
    draw, font = ImageDraw.Draw(page), default_font(TEXT)
    for query, boxes in enumerate(usage.boxes):
        x, y = GAP + query % columns * across, head.height + query // columns * down
        page.paste(query_tile(boxes, usage.image_sizes), (x, y))
        caption = f"{query}: {counts[query]:,}" if counts[query] else f"{query}: none"
        draw.text((x + TILE / 2, y + TILE + 3), caption, fill="black", font=font, anchor="ma")
    return page


def query_tile(boxes: np.ndarray, sizes: np.ndarray) -> Image.Image:
    """A point for each box (I, 4) of a query; drawn at four times the size, so that points are round."""
    fine = 4
    tile = Image.new("RGB", (fine * TILE, fine * TILE), (240, 240, 240))
    draw = ImageDraw.Draw(tile)
    radius = fine * (1.8 if len(boxes) <= 500 else 1.0)
    heights, widths = sizes.T
    small = boxes[:, 2] * boxes[:, 3] * widths * heights <= SMALL
    wide = boxes[:, 2] * widths >= boxes[:, 3] * heights
    colours = list(KINDS.values())
    for (cx, cy, *_), kind in zip(boxes.tolist(), np.where(small, 0, np.where(wide, 1, 2)).tolist(), strict=True):
        x, y = cx * fine * TILE, cy * fine * TILE
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colours[kind])
    return tile.resize((TILE, TILE), Image.Resampling.LANCZOS)


def hard_examples_figure(
    examples: Sequence[HardExample], picture: Callable[[int], Image.Image], classes: Classes
) -> Image.Image:
    """Each object in its surroundings, with its label, its loss, and what its query predicts."""
    cells = []
    for one in examples:
        image = picture(one.place)
        cells.append((_cut_out(image, one, classes), _caption(one, classes)))
    return grid_figure(cells, columns=WORST_COLUMNS * (1 if len(cells) <= MANY else 2), cell=WORST_CELL)


def _cut_out(image: Image.Image, one: HardExample, classes: Classes) -> Image.Image:
    cx, cy, w, h = one.box * np.array([image.width, image.height] * 2)
    side = max(AROUND * max(w, h), LEAST_SHARE * min(image.size))
    left, top = max(0, round(cx - side / 2)), max(0, round(cy - side / 2))
    right, bottom = min(image.width, round(cx + side / 2)), min(image.height, round(cy + side / 2))
    box = (cx - w / 2 - left, cy - h / 2 - top, cx + w / 2 - left, cy + h / 2 - top)
    shown = image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
    return mark(shown, [Mark(box, str(classes.names[one.label]), int(classes.ids[one.label]))])


def _caption(one: HardExample, classes: Classes) -> str:
    return f"{one.total_loss:.1f}  {one.image_id}: {classes.names[one.predicted]} {one.score:.2f}"


def _legend(text: str) -> Image.Image:
    font = default_font(TEXT)
    widths = [round(font.getlength(name)) + 40 for name in KINDS]
    legend = Image.new("RGB", (GAP + sum(widths) + round(font.getlength(text)) + GAP, TEXT + 2 * GAP), "white")
    draw, x = ImageDraw.Draw(legend), GAP
    for (name, colour), width in zip(KINDS.items(), widths, strict=True):
        draw.ellipse((x, GAP + 1, x + 12, GAP + 13), fill=colour)
        draw.text((x + 18, GAP), name, fill="black", font=font)
        x += width
    draw.text((x, GAP), text, fill="black", font=font)
    return legend


def _line(text: str) -> Image.Image:
    font = default_font(TEXT + 3)
    line = Image.new("RGB", (round(font.getlength(text)) + 2 * GAP, TEXT + 3 * GAP), "white")
    ImageDraw.Draw(line).text((GAP, GAP), text, fill="black", font=font)
    return line
