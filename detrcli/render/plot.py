"""Plots of curves, drawn with Pillow; also those of a training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

from detrcli.render.color import PALETTE, Color
from detrcli.render.draw import default_font, flow

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 34, 40  # margins around the coordinate system
ROW = 14  # height of a row of the legend
GRAY = (205, 205, 205)
SCALE = 2  # pixels of the image per unit of the sizes above

# Columns of metrics.csv. LOSS is a prefix: `loss_class` is a loss term; `loss_denoising_class` that of a query group.
LOSS, VALIDATION_LOSS = "loss_", "val_loss"

Point = tuple[float, float]


@dataclass(frozen=True)
class Panel:
    """Curves in one coordinate system."""

    title: str
    x_label: str
    curves: Mapping[str, Sequence[Point]]  # by name, each by ascending x
    y_min: float | None = None  # by default the limits of the curves
    y_max: float | None = None
    x_range: tuple[float, float] | None = None
    mark: tuple[float, str] | None = None  # an x value to be marked, and its label
    bands: Mapping[str, Sequence[tuple[float, float, float]]] = field(default_factory=dict)  # x, low, high by curve


def plot(panels: Sequence[Panel], columns: int = 2) -> Image.Image:
    rows = math.ceil(len(panels) / columns)
    page = Image.new("RGB", (SCALE * WIDTH * min(columns, len(panels)), SCALE * HEIGHT * rows), "white")
    for i, panel in enumerate(panels):
        page.paste(_draw(panel), (SCALE * WIDTH * (i % columns), SCALE * HEIGHT * (i // columns)))
    return page


def _draw(panel: Panel) -> Image.Image:
    image = Image.new("RGB", (SCALE * WIDTH, SCALE * HEIGHT), "white")
    draw, font, small = ImageDraw.Draw(image), default_font(SCALE * 14), default_font(SCALE * 11)
    legend, rows = _legend(panel)
    # The corners of the coordinate system.
    x0, y0, x1, y1 = (SCALE * v for v in (LEFT, TOP + ROW * rows, WIDTH - RIGHT, HEIGHT - BOTTOM))
    draw.text((x0, SCALE * 8), panel.title, fill="black", font=font)
    draw.text(((x0 + x1) / 2, SCALE * (HEIGHT - 16)), panel.x_label, fill="black", font=small, anchor="ma")

    points = [point for curve in panel.curves.values() for point in curve if math.isfinite(point[1])]
    if not points:
        draw.text(((x0 + x1) / 2, (y0 + y1) / 2), "no data yet", fill=GRAY, font=font, anchor="mm")
        return image
    xs, ys = zip(*points, strict=True)
    x_ticks = ticks(*(panel.x_range or (min(xs), max(xs))), whole=True)
    y_ticks = ticks(min(ys) if panel.y_min is None else panel.y_min, max(ys) if panel.y_max is None else panel.y_max)

    def place(x: float, y: float) -> Point:
        return (
            x0 + (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (x1 - x0),
            y1 - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (y1 - y0),
        )

    for y in y_ticks:
        _, row = place(x_ticks[0], y)
        draw.line((x0, row, x1, row), fill=GRAY, width=1)
        draw.text((x0 - SCALE * 6, row), f"{y:g}", fill="black", font=small, anchor="rm")
    for x in x_ticks:
        column, _ = place(x, y_ticks[0])
        draw.line((column, y1, column, y1 + SCALE * 4), fill="black", width=SCALE)
        draw.text((column, y1 + SCALE * 6), f"{x:g}", fill="black", font=small, anchor="ma")
    draw.line((x0, y1, x1, y1), fill="black", width=SCALE)
    if panel.mark is not None:
        column, _ = place(panel.mark[0], y_ticks[0])
        draw.line((column, y0, column, y1), fill="gray", width=SCALE)
        anchor, shift = ("ra", -4) if column > x1 - SCALE * 40 else ("la", 4)
        draw.text((column + SCALE * shift, y0), panel.mark[1], fill="gray", font=small, anchor=anchor)

    for i, (name, curve) in enumerate(panel.curves.items()):
        color, dashed = PALETTE[i % len(PALETTE)], i >= len(PALETTE)  # when all colors are used
        band = panel.bands.get(name, ())
        if len(band) > 1:
            outline = [place(x, low) for x, low, _ in band] + [place(x, high) for x, _, high in reversed(band)]
            area = Image.new("RGBA", image.size)
            ImageDraw.Draw(area).polygon(outline, fill=(*color, 40))
            image.paste(area, (0, 0), area)
        pixels = [place(x, y) for x, y in curve if math.isfinite(y)]
        if len(pixels) > 1:
            _line(draw, pixels, color, 2 * SCALE, dashed=dashed)
        if len(pixels) <= 60:  # more dots would overlap
            for center in pixels:
                draw.circle(center, SCALE * 2.2, fill=color)
        left, top = legend[i]
        ends = [(left + SCALE * 8, top + SCALE * 7), (left + SCALE * 23, top + SCALE * 7)]
        _line(draw, ends, color, 3 * SCALE, dashed=dashed)
        draw.text((left + SCALE * 28, top), name, fill="black", font=small)
    return image


def _line(draw: ImageDraw.ImageDraw, points: Sequence[Point], color: Color, width: int, *, dashed: bool) -> None:
    if not dashed:
        draw.line(points, fill=color, width=width, joint="curve")
        return
    x, y = np.array(points).T
    length = np.append(0, np.hypot(np.diff(x), np.diff(y)).cumsum())  # from the start of the line to each point
    steps = np.arange(0, length[-1], SCALE * 4)  # each is the start or the end of a dash
    ends = np.stack([np.interp(steps, length, x), np.interp(steps, length, y)], 1)
    for dash in ends[: len(ends) // 2 * 2].reshape(-1, 4).tolist():  # x0, y0, x1, y1
        draw.line(dash, fill=color, width=width)


def _legend(panel: Panel) -> tuple[list[Point], int]:
    """Return the positions of the names beside the title, or in rows below it; and the number of these rows."""
    lengths = [default_font(SCALE * 11).getlength(name) + SCALE * 32 for name in panel.curves]
    room, total = SCALE * (WIDTH - LEFT - RIGHT), sum(lengths)
    places = flow(lengths, room)
    if total + default_font(SCALE * 14).getlength(panel.title) < room:
        return [(SCALE * (WIDTH - RIGHT) - total + x, SCALE * 10) for x, _ in places], 0
    return [(SCALE * LEFT + x, SCALE * (TOP - 4 + ROW * row)) for x, row in places], places[-1][1] + 1


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Return about five round numbers that enclose a range; with `whole`, integers."""
    if high - low <= 1e-9 * max(1, abs(low), abs(high)):  # an empty range
        low, high = (low - 0.5, low + 0.5) if whole else (low - abs(low or 1) / 2, low + abs(low or 1) / 2)
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if (high - low) / (step * factor) <= 5)
    if whole:
        step = max(1.0, math.ceil(step))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def training_curves(
    rows: Sequence[Mapping[str, float | None]], metrics: Sequence[str], best: Mapping[str, float | None] | None
) -> Image.Image:
    """Draw the rows of metrics.csv; `metrics` are the columns of the evaluation, `best` is the row to mark."""

    def curve(name: str) -> list[tuple[float, float]]:  # without -1, which is an undefined metric
        return [
            (float(row["epoch"] or 0), float(value))
            for row in rows
            if (value := row.get(name)) is not None and math.isfinite(value) and not (name in metrics and value < 0)
        ]

    def group_sum(group: str) -> list[tuple[float, float]]:
        terms = [curve(LOSS + name) for name in parts if name.startswith(f"{group}_")]
        return [(points[0][0], sum(value for _, value in points)) for points in zip(*terms, strict=False)]

    columns = list(dict.fromkeys(name for row in rows for name in row))
    parts = [name.removeprefix(LOSS) for name in columns if name.startswith(LOSS)]
    groups = list(dict.fromkeys(name.partition("_")[0] for name in parts if "_" in name))
    terms = {name: curve(LOSS + name) for name in parts if "_" not in name} | {g: group_sum(g) for g in groups}
    rates = {name.removeprefix("lr_"): curve(name) for name in columns if name.startswith("lr_")}
    panel = partial(
        Panel,
        x_label="epoch",
        x_range=(float(rows[0]["epoch"] or 0), float(rows[-1]["epoch"] or 0)) if rows else None,
        mark=None if best is None else (float(best["epoch"] or 0), "best"),
        y_min=0,
    )
    losses = {"training": curve("loss"), "validation": curve(VALIDATION_LOSS)}
    return plot(
        [
            panel("loss, all layers, weighted", curves=losses),
            panel("loss, last layer, by term", curves=terms),
            panel("validation", curves={name: curve(name) for name in metrics[:3]}, y_max=1),
            panel("class error, %", curves={"class error": curve("class_error")}, y_max=100),
            panel("gradient norm", curves={"before clipping": curve("grad_norm")}),
            panel("learning rate", curves={"transformer": curve("lr"), **rates}),
        ],
        columns=3,
    )
