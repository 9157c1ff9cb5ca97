"""Attention over pictures: tiles with a map each, side by side, each with the scale of its colours."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from detrcli.render.colour import colour_of, contrast, heat
from detrcli.render.draw import Box, Mark, default_font, font_for, grid_figure, mark, shorten
from detrcli.render.overlay import overlay as masks_over
from detrcli.resize import Placement
from detrcli.system.text import escape_controls

SEEN_THROUGH = 0.45  # how much of the picture is left under a map
STRIP = 22  # pixels under a tile, for its scale
NARROWEST = 130  # what the scale needs
MARGIN = 12
LARGEST_SAMPLE = 7  # pixels, radius of the sampled point that has all the weight of its head
BLUE, WHITE, BLACK = (0, 90, 200), (255, 255, 255), (0, 0, 0)


@dataclass(frozen=True)
class Samples:
    """Where attention by sampled points took its samples, in pixels of the picture."""

    points: np.ndarray  # (heads, levels, points, 2), x and y
    weights: np.ndarray  # (heads, levels, points)
    reference: np.ndarray  # (2,) or (4,), where from: cx, cy, and w, h where it is a box


@dataclass(frozen=True)
class Tile:
    """A picture with what was found there, and a map over it."""

    caption: str
    map: np.ndarray | None = None  # (h, w), shares of the attention; None leaves the picture as it is
    samples: Samples | None = None  # drawn over the map
    marks: Sequence[Mark] = ()
    points: Sequence[tuple[float, float, str]] = ()  # x, y in pixels of the picture, what is written there


@dataclass(frozen=True)
class Matrix:
    """How much of its attention each of several gives to each of others."""

    caption: str
    values: np.ndarray  # (rows, columns)
    rows: Sequence[str]
    columns: Sequence[str]


def tiles_figure(
    image: Image.Image, title: str, tiles: Sequence[Tile], across: int | None = None, placement: Placement | None = None
) -> Image.Image:
    """All tiles under a title, `across` of them in a row.

    Maps are over the network's input; without a placement the picture fills that.
    """
    columns, cell = _layout(len(tiles), across)
    drawn = [(draw_tile(image, tile, cell, placement), tile.caption) for tile in tiles]
    return titled(title, grid_figure(drawn, columns, cell))


def matrix_figure(title: str, matrices: Sequence[Matrix]) -> Image.Image:
    """All matrices under a title."""
    drawn = [(draw_matrix(matrix), matrix.caption) for matrix in matrices]
    cell = max(max(picture.size) for picture, _ in drawn)
    return titled(title, grid_figure(drawn, columns=max(1, min(len(drawn), 1600 // cell)), cell=cell))


def draw_matrix(matrix: Matrix) -> Image.Image:
    """A square for each pair, those who look down the side."""
    rows, columns = matrix.values.shape
    side = max(14, min(56, 480 // columns))
    font, small = default_font(13), default_font(max(8, min(13, round(0.55 * side))))
    names = [
        shorten(escape_controls(name), "", font_for(escape_controls(name), 13) or font, 200) for name in matrix.rows
    ]
    left = 6 + round(max((font_for(name, 13) or font).getlength(name) for name in names))
    page = Image.new("RGB", (max(left + side * columns, NARROWEST), 20 + side * rows + STRIP), "white")
    draw = ImageDraw.Draw(page)
    colours = heat(matrix.values / (matrix.values.max() or 1))  # (rows, columns, 3)
    for i, name in enumerate(names):
        middle = 20 + side * (i + 0.5)
        draw.text((left - 4, middle), name, fill="black", font=font_for(name, 13) or font, anchor="rm")
        for j in range(columns):
            x, (red, green, blue) = left + side * j, colours[i, j].tolist()
            draw.rectangle((x, middle - side / 2, x + side - 2, middle + side / 2 - 2), (red, green, blue))
            if side >= 28:
                text = f"{100 * matrix.values[i, j]:.0f}"
                ink = contrast((red, green, blue))
                draw.text((x + side / 2 - 1, middle - 1), text, fill=ink, font=small, anchor="mm")
    for j, name in enumerate(matrix.columns):
        draw.text((left + side * (j + 0.5) - 1, 17), name, fill="black", font=small, anchor="ms")
    _scale_of_colours(page, page.height - STRIP, f"{100 * matrix.values.max():.2g}%")
    return page


def stacked(pages: Sequence[Image.Image]) -> Image.Image:
    """Pages below each other, as wide as the first; wider ones are made smaller."""
    width = pages[0].width
    fitted = [
        page.resize((width, round(page.height * width / page.width)), Image.Resampling.LANCZOS)
        if page.width > width
        else page
        for page in pages
    ]
    whole = Image.new("RGB", (width, sum(page.height for page in fitted)), "white")
    for i, page in enumerate(fitted):
        whole.paste(page, (0, sum(above.height for above in fitted[:i])))
    return whole


def draw_tile(image: Image.Image, tile: Tile, cell: int, placement: Placement | None = None) -> Image.Image:
    """A tile as large as fits in a square cell."""
    scale = min(cell / image.width, (cell - STRIP) / image.height)
    width, height = max(1, round(scale * image.width)), max(1, round(scale * image.height))
    masks = [(one.mask, colour_of(one.category)) for one in tile.marks if one.mask is not None]
    if masks:
        image = masks_over(np.asarray(image), masks)
    shown = image.resize((width, height), Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS)
    if tile.map is not None:
        shown = overlay(shown, tile.map, placement)
    if tile.samples is not None:
        _samples(ImageDraw.Draw(shown), tile.samples, scale)
    marks = [Mark(_scaled(m.box, scale), m.name, m.category, m.score) for m in tile.marks]
    if marks:
        shown = mark(shown, marks).resize((width, height), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(shown)
    for x, y, text in tile.points:
        _point(draw, scale * x, scale * y, text)

    page = Image.new("RGB", (max(width, NARROWEST), height + STRIP), "white")
    page.paste(shown, ((page.width - width) // 2, 0))
    if tile.map is not None:
        _scale_of_colours(page, height, f"{100 * tile.map.max():.2g}% a cell")
    return page


def overlay(image: Image.Image, map_: np.ndarray, placement: Placement | None = None) -> Image.Image:
    """A picture in grey under the colours of a map, of which the brightest cell has the last colour."""
    whole = map_ / (map_.max() or 1)
    colours = Image.fromarray(heat(smooth(whole, image.size, window(map_.shape, placement))))
    return Image.blend(colours, in_grey(image).convert("RGB"), SEEN_THROUGH)


def window(cells: tuple[int, ...], placement: Placement | None) -> Box:
    """The part of a map of (h, w) cells over the network's input that lies on the picture, in cells."""
    h, w = cells
    if placement is None or placement.fills:
        return 0, 0, w, h
    p = placement
    across, down = w / p.width, h / p.height
    return (p.left * across, p.top * down, (p.left + p.image_width) * across, (p.top + p.image_height) * down)


def in_grey(image: Image.Image) -> Image.Image:
    """A picture without colours, which under a map are the map's alone."""
    return ImageOps.autocontrast(image.convert("L"), 1)


def smooth(map_: np.ndarray, size: tuple[int, int], part: Box | None = None) -> np.ndarray:
    """A map (h, w) of feature cells, or a part of it, over a picture of (width, height), without what overshoots."""
    cells = Image.fromarray(map_.astype(np.float32))
    return np.asarray(cells.resize(size, Image.Resampling.BICUBIC, part)).clip(map_.min(), map_.max())


def titled(title: str, page: Image.Image) -> Image.Image:
    """A page under a title, which is broken into lines where it is too long."""
    text = escape_controls(title)
    font = font_for(text, 16) or default_font(16)
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > page.width - 2 * MARGIN:
            lines.append(word)
        else:
            lines[-1] = longer
    top = MARGIN + 22 * len(lines)
    whole = Image.new("RGB", (page.width, page.height + top), "white")
    whole.paste(page, (0, top))
    draw = ImageDraw.Draw(whole)
    for i, line in enumerate(lines):
        draw.text((MARGIN, MARGIN + 22 * i), line, fill="black", font=font)
    return whole


def _layout(tiles: int, across: int | None) -> tuple[int, int]:
    """Columns, and the side of a cell: the more there are, the smaller."""
    columns = across or next((columns for columns in (1, 2, 3, 4, 6, 8) if columns**2 >= tiles), 10)
    return columns, max(240, min(640, 1440 // columns))


def _scaled(box: Box, scale: float) -> Box:
    x0, y0, x1, y1 = box
    return scale * x0, scale * y0, scale * x1, scale * y1


def _scale_of_colours(page: Image.Image, top: int, most: str) -> None:
    """From nothing to the most that a cell has."""
    draw, font = ImageDraw.Draw(page), default_font(12)
    middle, right = top + STRIP / 2 + 1, page.width - font.getlength(most)
    draw.text((0, middle), "0", fill="black", font=font, anchor="lm")
    draw.text((right, middle), most, fill="black", font=font, anchor="lm")
    x0, width = 12, max(1, int(right) - 18)
    bar = np.broadcast_to(heat(np.linspace(0, 1, width)), (10, width, 3))
    page.paste(Image.fromarray(np.ascontiguousarray(bar)), (x0, int(middle) - 5))


def _point(draw: ImageDraw.ImageDraw, x: float, y: float, text: str) -> None:
    """A ring that shows on anything, and its number beside it."""
    for radius, colour, line in ((9, WHITE, 5), (8, BLUE, 3)):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=line)
    draw.text((x + 12, y - 8), text, fill=WHITE, font=default_font(18), stroke_width=2, stroke_fill=BLUE)


def _samples(draw: ImageDraw.ImageDraw, samples: Samples, scale: float) -> None:
    """A dot for each sampled point, its area by its weight; a cross at the reference, with its box if it has one."""
    points, weights = scale * samples.points.reshape(-1, 2), samples.weights.ravel()
    for i in np.argsort(weights, kind="stable").tolist():
        (x, y), radius = points[i].tolist(), LARGEST_SAMPLE * float(max(weights[i], 0)) ** 0.5
        around = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(around, fill=WHITE, outline=BLACK if radius >= 2 else None)
    x, y, *sides = (scale * samples.reference).tolist()
    if sides:
        w, h = sides
        for colour, line in ((WHITE, 3), (BLUE, 1)):
            draw.rectangle((x - w / 2, y - h / 2, x + w / 2, y + h / 2), outline=colour, width=line)
    for colour, line, arm in ((WHITE, 5, 9), (BLUE, 3, 8)):
        draw.line((x - arm, y, x + arm, y), fill=colour, width=line)
        draw.line((x, y - arm, x, y + arm), fill=colour, width=line)
