"""Attention over images: tiles, each with a map and its color scale, and matrices of attention among queries."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from detrcli.inspection.attention import SampledPoints
from detrcli.render import draw as drawing
from detrcli.render.color import color_of, contrast, heat
from detrcli.resize import Placement
from detrcli.system.text import escape_controls

IMAGE_OPACITY = 0.45  # of the gray image under a map
STRIP = 22  # height of the color scale below a tile
MIN_WIDTH = 130  # of the color scale
MARGIN = 12
LARGEST_POINT = 7  # radius of a sampled point with all the weight of its head
MARKER, WHITE, BLACK = (0, 90, 200), (255, 255, 255), (0, 0, 0)


@dataclass(frozen=True)
class Tile:
    """An image with predictions, and a map over it."""

    caption: str
    map: np.ndarray | None = None  # (h, w), shares of the attention; without one the image keeps its colors
    sampled: SampledPoints | None = None  # drawn over the map
    marks: Sequence[drawing.Mark] = ()
    points: Sequence[tuple[float, float, str]] = ()  # x, y in pixels of the image, label


def tiles_figure(
    image: Image.Image, title: str, tiles: Sequence[Tile], across: int | None = None, placement: Placement | None = None
) -> Image.Image:
    """Return tiles under a title, `across` of them in a row.

    Maps cover the network's input, in which `placement` locates the image. Without it, the image fills the input.
    """
    columns = across or next((columns for columns in (1, 2, 3, 4, 6, 8) if columns**2 >= len(tiles)), 10)
    cell = max(240, min(640, 1440 // columns))
    drawn = [(draw_tile(image, tile, cell, placement), tile.caption) for tile in tiles]
    return titled(title, drawing.grid_figure(drawn, columns, cell))


def matrices_figure(title: str, matrices: Sequence[tuple[Image.Image, str]]) -> Image.Image:
    cell = max(max(image.size) for image, _ in matrices)
    return titled(title, drawing.grid_figure(matrices, columns=max(1, min(len(matrices), 1600 // cell)), cell=cell))


def draw_matrix(values: np.ndarray, row_names: Sequence[str], column_names: Sequence[str]) -> Image.Image:
    """Draw the attention from queries (rows) to queries (columns) as colored squares."""
    rows, columns = values.shape
    side = max(14, min(56, 480 // columns))
    small = drawing.default_font(max(8, min(13, round(0.55 * side))))
    names = [drawing.fitted(name, 13, 200) for name in row_names]
    left, top = 6 + round(max(font.getlength(name) for name, font in names)), 20
    page = Image.new("RGB", (max(left + side * columns, MIN_WIDTH), top + side * rows + STRIP), "white")
    draw = ImageDraw.Draw(page)
    colors = heat(values / (values.max() or 1))  # (rows, columns, 3)
    for i, (name, font) in enumerate(names):
        middle = top + side * (i + 0.5)
        draw.text((left - 4, middle), name, fill="black", font=font, anchor="rm")
        for j in range(columns):
            x, (red, green, blue) = left + side * j, colors[i, j].tolist()
            draw.rectangle((x, middle - side / 2, x + side - 2, middle + side / 2 - 2), (red, green, blue))
            if side >= 28:
                text, ink = f"{100 * values[i, j]:.0f}", contrast((red, green, blue))
                draw.text((x + side / 2 - 1, middle - 1), text, fill=ink, font=small, anchor="mm")
    for j, name in enumerate(column_names):
        draw.text((left + side * (j + 0.5) - 1, 17), name, fill="black", font=small, anchor="ms")
    _draw_scale(page, page.height - STRIP, f"{100 * values.max():.2g}%")
    return page


def draw_tile(image: Image.Image, tile: Tile, cell: int, placement: Placement | None = None) -> Image.Image:
    """Draw a tile in a square of `cell` pixels."""
    scale = min(cell / image.width, (cell - STRIP) / image.height)
    width, height = max(1, round(scale * image.width)), max(1, round(scale * image.height))
    masks = [(item.mask, color_of(item.category)) for item in tile.marks if item.mask is not None]
    if masks:
        image = drawing.overlay_masks(np.asarray(image), masks)
    drawn = image.resize((width, height), Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS)
    if tile.map is not None:
        drawn = overlay(drawn, tile.map, placement)
    if tile.sampled is not None:
        _draw_sampled(ImageDraw.Draw(drawn), tile.sampled, scale)
    if tile.marks:
        marks = [replace(item, box=drawing.scaled(item.box, scale), mask=None) for item in tile.marks]
        drawn = drawing.mark(drawn, marks).resize((width, height), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(drawn)
    for x, y, text in tile.points:
        _draw_point(draw, scale * x, scale * y, text)

    page = Image.new("RGB", (max(width, MIN_WIDTH), height + STRIP), "white")
    page.paste(drawn, ((page.width - width) // 2, 0))
    if tile.map is not None:
        _draw_scale(page, height, f"{100 * tile.map.max():.2g}% in a cell")
    return page


def overlay(image: Image.Image, map_: np.ndarray, placement: Placement | None = None) -> Image.Image:
    """Blend the colors of a map (h, w), scaled to its maximum, over the image in gray."""
    scaled = map_ / (map_.max() or 1)
    colors = Image.fromarray(heat(smooth(scaled, image.size, image_window(map_.shape, placement))))
    gray = ImageOps.autocontrast(image.convert("L"), 1).convert("RGB")
    return Image.blend(colors, gray, IMAGE_OPACITY)


def image_window(cells: tuple[int, ...], placement: Placement | None) -> drawing.Box:
    """Return the region of the image, x0, y0, x1, y1 in cells, in a map of (h, w) cells over the network's input."""
    h, w = cells
    if placement is None or placement.fills:
        return 0, 0, w, h
    p = placement
    across, down = w / p.width, h / p.height
    return (p.left * across, p.top * down, (p.left + p.image_width) * across, (p.top + p.image_height) * down)


def smooth(map_: np.ndarray, size: tuple[int, int], region: drawing.Box | None = None) -> np.ndarray:
    """Interpolate a region of a map (h, w) to `size`, (width, height), without overshoot."""
    cells = Image.fromarray(map_.astype(np.float32))
    return np.asarray(cells.resize(size, Image.Resampling.BICUBIC, region)).clip(map_.min(), map_.max())


def titled(title: str, page: Image.Image) -> Image.Image:
    text = escape_controls(title)
    font, words = drawing.font_for(text, 16) or drawing.default_font(16), text.split(" ")
    places = drawing.flow([font.getlength(f"{word} ") for word in words], page.width - 2 * MARGIN)
    heading = Image.new("RGB", (page.width, MARGIN + 22 * (places[-1][1] + 1)), "white")
    draw = ImageDraw.Draw(heading)
    for word, (x, row) in zip(words, places, strict=True):
        draw.text((MARGIN + x, MARGIN + 22 * row), word, fill="black", font=font)
    return drawing.stacked([heading, page])


def _draw_scale(page: Image.Image, top: int, maximum: str) -> None:
    draw, font = ImageDraw.Draw(page), drawing.default_font(12)
    middle, right = top + STRIP / 2 + 1, page.width - font.getlength(maximum)
    draw.text((0, middle), "0", fill="black", font=font, anchor="lm")
    draw.text((right, middle), maximum, fill="black", font=font, anchor="lm")
    x0, width = 12, max(1, int(right) - 18)
    bar = np.broadcast_to(heat(np.linspace(0, 1, width)), (10, width, 3))
    page.paste(Image.fromarray(np.ascontiguousarray(bar)), (x0, int(middle) - 5))


def _draw_point(draw: ImageDraw.ImageDraw, x: float, y: float, text: str) -> None:
    for radius, color, line in ((9, WHITE, 5), (8, MARKER, 3)):
        draw.circle((x, y), radius, outline=color, width=line)
    draw.text((x + 12, y - 8), text, fill=WHITE, font=drawing.default_font(18), stroke_width=2, stroke_fill=MARKER)


def _draw_sampled(draw: ImageDraw.ImageDraw, sampled: SampledPoints, scale: float) -> None:
    """Draw a dot for each sampled point, its area by its weight, and a cross at the reference, with its box if any."""
    points, weights = scale * sampled.points.reshape(-1, 2), sampled.weights.ravel()
    for i in np.argsort(weights, kind="stable").tolist():
        radius = LARGEST_POINT * float(max(weights[i], 0)) ** 0.5
        x, y = points[i].tolist()
        draw.circle((x, y), radius, fill=WHITE, outline=BLACK if radius >= 2 else None)
    x, y, *sides = (scale * sampled.references).tolist()
    if sides:
        w, h = sides
        for color, line in ((WHITE, 3), (MARKER, 1)):
            draw.rectangle((x - w / 2, y - h / 2, x + w / 2, y + h / 2), outline=color, width=line)
    for color, line, arm in ((WHITE, 5, 9), (MARKER, 3, 8)):
        draw.line((x - arm, y, x + arm, y), fill=color, width=line)
        draw.line((x, y - arm, x, y + arm), fill=color, width=line)
