"""SVG charts that follow the light or dark theme of the page, in colors for color-blind readers (charts.css)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from detrcli.render.color import PALETTE
from detrcli.render.draw import flow
from detrcli.render.page import escaped
from detrcli.render.plot import Point, ticks

WIDTH, HEIGHT = 440, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 40  # margins around the coordinate system
LEGEND_LINE = 18
LETTER = 6.6  # mean width of a character at a font size of 12 px

STYLE = f":root {{ {' '.join(f'--s{i}: rgb{color};' for i, color in enumerate(PALETTE))} }}\n"
STYLE += "".join(f".s{i} {{ stroke: var(--s{i}); fill: var(--s{i}); }}\n" for i in range(len(PALETTE)))
STYLE += Path(__file__).with_suffix(".css").read_text(encoding="utf-8")


def figure(caption: str, content: str) -> str:
    return f"<figure><figcaption>{escaped(caption)}</figcaption>{content}</figure>"


def line_chart(
    caption: str,
    series: Mapping[str, Sequence[Point]],
    x_label: str,
    y_label: str,
    *,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = (0, 1),
    dots: bool = False,
    radius: Mapping[str, float] | None = None,
    legend: bool = True,
    reference: Sequence[Point] = (),
) -> str:
    """Return a chart of named curves or dots; `reference` is a line to compare with. Ranges default to the points'.

    With a `radius` for each name, all dots have the same color.
    """
    points = [point for curve in series.values() for point in curve]
    if not points:
        return figure(caption, "<p>No data.</p>")
    xs, ys = zip(*points, strict=True)
    x_ticks, y_ticks = ticks(*(x_range or (min(xs), max(xs)))), ticks(*(y_range or (min(ys), max(ys))))
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    names = list(series) if legend and len(series) > 1 else []
    legend_places = flow([28 + LETTER * len(name) for name in names], right - LEFT)  # 28: the line and gaps

    def place(x: float, y: float) -> Point:
        return (
            LEFT + (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (right - LEFT),
            bottom - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (bottom - TOP),
        )

    def line(curve: Sequence[Point], css_class: str) -> str:
        coordinates = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in curve))
        return f'<polyline class="{css_class}" points="{coordinates}"/>'

    parts = []
    for value in y_ticks:
        _, y = place(x_ticks[0], value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in x_ticks:
        x, _ = place(value, y_ticks[0])
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escaped(x_label)}</text>')
    rotated = f"translate(12 {(TOP + bottom) / 2}) rotate(-90)"
    parts.append(f'<text transform="{rotated}" text-anchor="middle">{escaped(y_label)}</text>')
    if reference:
        parts.append(line(reference, "reference"))
    for i, (name, curve) in enumerate(series.items()):
        css_class = "s0" if radius else f"s{i % len(PALETTE)}"
        if not dots and len(curve) > 1:
            parts.append(line(curve, css_class))
            continue
        for x, y in curve:
            cx, cy = place(x, y)
            title = f"<title>{escaped(name)} {x:g}, {y:.3g}</title>"
            r = (radius or {}).get(name, 3)
            parts.append(f'<circle class="{css_class}" cx="{cx:.1f}" cy="{cy:.1f}" r="{r:.1f}">{title}</circle>')
    for i, (name, (x, row)) in enumerate(zip(names, legend_places, strict=True)):
        x, y, css_class = LEFT + x, HEIGHT + LEGEND_LINE * row + 8, f"s{i % len(PALETTE)}"
        parts.append(f'<line class="{css_class}" x1="{x}" x2="{x + 14}" y1="{y - 4}" y2="{y - 4}" stroke-width="3"/>')
        parts.append(f'<text x="{x + 18}" y="{y}">{escaped(name)}</text>')
    height = HEIGHT + LEGEND_LINE * (legend_places[-1][1] + 1 if legend_places else 0)
    svg = f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img">{"".join(parts)}</svg>'
    return figure(caption, svg)


def bar_chart(caption: str, parts: Mapping[str, int]) -> str:
    """Return a single bar divided into the parts of a whole, and a table of their counts and shares."""
    whole = max(1, sum(parts.values()))
    bar, rows = "", ""
    for i, (name, count) in enumerate(parts.items()):
        color = f"background: var(--s{i % len(PALETTE)})"
        if count:
            bar += f'<span style="flex: {count}; {color}" title="{escaped(name)}: {count:,}"></span>'
        rows += (
            f'<tr><td><i class="dot" style="{color}"></i>{escaped(name)}</td>'
            f"<td class=number>{count:,}</td><td class=number>{count / whole:.0%}</td></tr>"
        )
    return figure(caption, f'<div class="parts">{bar}</div><table>{rows}</table>')
