"""Curves, with Pillow."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from PIL import Image, ImageDraw

from detrcli.render.colour import Colour
from detrcli.render.draw import default_font

# Told apart by the colour-blind too (Okabe and Ito's set, without its yellow, which is faint on white).
COLOURS: tuple[Colour, ...] = (
    (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (230, 159, 0), (0, 0, 0),
)  # fmt: skip
WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 34, 40
ROW = 14  # height of a row of the legend
GREY = (205, 205, 205)
SCALE = 2  # drawn larger, for screens and print


@dataclass(frozen=True)
class Panel:
    """Curves that share their axes."""

    title: str
    across: str
    curves: Mapping[str, Sequence[tuple[float, float]]]  # name -> points, by rising x
    least: float | None = None  # where the y axis begins, else where the curves do
    most: float | None = None
    span: tuple[float, float] | None = None  # of the x axis, else that of the curves
    mark: tuple[float, str] | None = None  # a place of the x axis that is marked, and its name
    bands: Mapping[str, Sequence[tuple[float, float, float]]] = field(default_factory=dict)  # x, from, to by name


def plot(panels: Sequence[Panel], columns: int = 2) -> Image.Image:
    """Panels in rows."""
    rows = math.ceil(len(panels) / columns)
    page = Image.new("RGB", (SCALE * WIDTH * min(columns, len(panels)), SCALE * HEIGHT * rows), "white")
    for i, panel in enumerate(panels):
        page.paste(_draw(panel), (SCALE * WIDTH * (i % columns), SCALE * HEIGHT * (i // columns)))
    return page


def _draw(panel: Panel) -> Image.Image:
    picture = Image.new("RGB", (SCALE * WIDTH, SCALE * HEIGHT), "white")
    draw, font, small = ImageDraw.Draw(picture), default_font(SCALE * 14), default_font(SCALE * 11)
    rows = _rows(panel)
    below = 0 if len(rows) == 1 and _beside(panel) else ROW * len(rows)  # the title
    x0, y0, x1, y1 = (SCALE * v for v in (LEFT, TOP + below, WIDTH - RIGHT, HEIGHT - BOTTOM))
    draw.text((x0, SCALE * 8), panel.title, fill="black", font=font)
    draw.text(((x0 + x1) / 2, SCALE * (HEIGHT - 16)), panel.across, fill="black", font=small, anchor="ma")

    points = [point for curve in panel.curves.values() for point in curve if math.isfinite(point[1])]
    if not points:
        draw.text(((x0 + x1) / 2, (y0 + y1) / 2), "nothing yet", fill=GREY, font=font, anchor="mm")
        return picture
    across = ticks(*(panel.span or (min(x for x, _ in points), max(x for x, _ in points))), whole=True)
    up = ticks(
        min(y for _, y in points) if panel.least is None else panel.least,
        max(y for _, y in points) if panel.most is None else panel.most,
    )

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            x0 + (x - across[0]) / (across[-1] - across[0]) * (x1 - x0),
            y1 - (y - up[0]) / (up[-1] - up[0]) * (y1 - y0),
        )

    for y in up:
        _, row = place(across[0], y)
        draw.line((x0, row, x1, row), fill=GREY, width=1)
        draw.text((x0 - SCALE * 6, row), f"{y:g}", fill="black", font=small, anchor="rm")
    for x in across:
        column, _ = place(x, up[0])
        draw.line((column, y1, column, y1 + SCALE * 4), fill="black", width=SCALE)
        draw.text((column, y1 + SCALE * 6), f"{x:g}", fill="black", font=small, anchor="ma")
    draw.line((x0, y1, x1, y1), fill="black", width=SCALE)

    if panel.mark is not None:
        column, _ = place(panel.mark[0], up[0])
        draw.line((column, y0, column, y1), fill="grey", width=SCALE)
        near_end = column > x1 - SCALE * 40
        anchor, shift = ("ra", -4) if near_end else ("la", 4)
        draw.text((column + SCALE * shift, y0), panel.mark[1], fill="grey", font=small, anchor=anchor)
    styles = _styles(panel)
    for name, (colour, _) in styles.items():
        band = panel.bands.get(name, ())
        if len(band) > 1:
            edge = [place(x, low) for x, low, _ in band] + [place(x, high) for x, _, high in reversed(band)]
            faint = Image.new("RGBA", picture.size)
            ImageDraw.Draw(faint).polygon(edge, fill=(*colour, 40))
            picture.paste(faint, (0, 0), faint)
    for name, (colour, dashed) in styles.items():
        places = [place(x, y) for x, y in panel.curves[name] if math.isfinite(y)]
        if len(places) > 1:
            _line(draw, places, colour, 2 * SCALE, dashed=dashed)
        if len(places) <= 60:
            for x, y in places:
                radius = SCALE * 2.2
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    _legend(draw, panel, rows if below else [])
    return picture


def _styles(panel: Panel) -> dict[str, tuple[Colour, bool]]:
    """The colour of each curve, and whether it is dashed: with more curves than colours the others are."""
    return {name: (COLOURS[place % len(COLOURS)], place >= len(COLOURS)) for place, name in enumerate(panel.curves)}


def _line(
    draw: ImageDraw.ImageDraw, places: Sequence[tuple[float, float]], colour: Colour, width: int, *, dashed: bool
) -> None:
    if not dashed:
        draw.line(places, fill=colour, width=width, joint="curve")
        return
    dash, done = SCALE * 4.0, 0.0  # as long a stroke as a gap; how far we have come
    for (x0, y0), (x1, y1) in pairwise(places):
        length = math.hypot(x1 - x0, y1 - y0)
        at = 0.0
        while at < length:
            end = min(length, at + dash - done % dash)
            if int(done // dash) % 2 == 0:
                ends = [at / length, end / length]
                draw.line([(x0 + t * (x1 - x0), y0 + t * (y1 - y0)) for t in ends], fill=colour, width=width)
            done += max(end - at, 1e-6)
            at = max(end, at + 1e-6)


def _lengths(panel: Panel) -> dict[str, float]:
    """How long each name of the legend is, with its line."""
    small = default_font(SCALE * 11)
    return {name: small.getlength(name) + SCALE * 32 for name in panel.curves}


def _beside(panel: Panel) -> bool:
    """Whether all names fit in the title's row."""
    title = default_font(SCALE * 14).getlength(panel.title)
    return sum(_lengths(panel).values()) + title < SCALE * (WIDTH - LEFT - RIGHT)


def _rows(panel: Panel) -> list[list[str]]:
    """The names in as many rows as they take."""
    rows: list[list[str]] = [[]]
    used = 0.0
    for name, long in _lengths(panel).items():
        if rows[-1] and used + long > SCALE * (WIDTH - LEFT - RIGHT):
            rows.append([])
            used = 0.0
        rows[-1].append(name)
        used += long
    return rows


def _legend(draw: ImageDraw.ImageDraw, panel: Panel, rows: Sequence[Sequence[str]]) -> None:
    """Names in rows below the title; without rows beside it, from the right."""
    small, lengths, styles = default_font(SCALE * 11), _lengths(panel), _styles(panel)
    beside = [(list(panel.curves), SCALE * (WIDTH - RIGHT) - sum(lengths.values()), SCALE * 10.0)]
    below = [(row, SCALE * float(LEFT), SCALE * (TOP - 4.0 + ROW * i)) for i, row in enumerate(rows)]
    for names, x, y in below or beside:
        for name in names:
            colour, dashed = styles[name]
            ends = [(x + SCALE * 8, y + SCALE * 7), (x + SCALE * 23, y + SCALE * 7)]
            _line(draw, ends, colour, 3 * SCALE, dashed=dashed)
            draw.text((x + SCALE * 28, y), name, fill="black", font=small)
            x += lengths[name]


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Some five round numbers that hold everything between them."""
    if high - low <= 1e-9 * max(1, abs(low), abs(high)):  # as good as equal
        low, high = (low - 0.5, low + 0.5) if whole else (low - abs(low or 1) / 2, low + abs(low or 1) / 2)
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if (high - low) / (step * factor) <= 5)
    if whole:
        step = max(1.0, math.ceil(step))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]
