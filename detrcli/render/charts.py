"""Charts as SVG, which take the page's colours: light and dark, and told apart by the colour-blind."""

from collections.abc import Callable, Mapping, Sequence

from detrcli.render.page import escaped
from detrcli.render.plot import COLOURS, ticks

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT = 440, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 40
LEGEND = 18  # height of a line of the legend
LETTER = 6.6  # width of one, about, in 12 px

_KINDS = "\n".join(f".s{i} {{ stroke: var(--s{i}); fill: var(--s{i}); }}" for i in range(len(COLOURS)))
_ROOT = " ".join(f"--s{i}: rgb{colour};" for i, colour in enumerate(COLOURS))
STYLE = f"""
:root {{ {_ROOT} }}
{_KINDS}
"""
STYLE += """
.chart { width: 100%; height: auto; font: 12px system-ui, sans-serif; fill: currentColor; }
.chart .grid { stroke: #8884; } .chart .axis { stroke: currentColor; }
.chart polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
.chart .promise { stroke: #888; stroke-dasharray: 4 4; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 1rem 1.5rem; }
.charts figure { margin: 0; } .charts figcaption { color: inherit; }
.parts { display: flex; height: 1.6rem; border-radius: .3rem; overflow: hidden; margin: .3rem 0; }
.parts span { min-width: 2px; }
.charts table { width: 100%; } .charts table td:not(:last-child) { white-space: normal; }
@media (prefers-color-scheme: dark) { :root { --s0: #4da6e0; --s6: #ccc; } }
"""


def lines(
    series: Mapping[str, Points],
    across: str,
    up: str,
    *,
    x: tuple[float, float] | None = None,
    y: tuple[float, float] | None = (0, 1),
    dots: bool = False,
    radius: Mapping[str, float] | None = None,
    legend: bool = True,
    promise: Points = (),
) -> str:
    """Curves by name, or dots; `promise` is a line to compare with. Ranges not given are those of the points.

    With a `radius` by name all dots have one colour.
    """
    points = [point for curve in series.values() for point in curve]
    if not points:
        return "<p>There is nothing to draw.</p>"
    names = list(series) if legend else []
    height = HEIGHT + LEGEND * _rows(names)
    columns = ticks(*(x or (min(a for a, _ in points), max(a for a, _ in points))))
    rows = ticks(*(y or (min(b for _, b in points), max(b for _, b in points))))
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT

    def place(a: float, b: float) -> tuple[float, float]:
        return (
            LEFT + (a - columns[0]) / (columns[-1] - columns[0]) * (right - LEFT),
            bottom - (b - rows[0]) / (rows[-1] - rows[0]) * (bottom - TOP),
        )

    parts = []
    for value in rows:
        _, at = place(columns[0], value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in columns:
        at, _ = place(value, rows[0])
        parts.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 17}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escaped(across)}</text>')
    parts.append(
        f'<text transform="translate(12 {(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">{escaped(up)}</text>'
    )
    if promise:
        parts.append(_line(promise, place, "promise"))
    for i, (name, curve) in enumerate(series.items()):
        kind = "s0" if radius else f"s{i % len(COLOURS)}"
        if not dots and len(curve) > 1:
            parts.append(_line(curve, place, kind))
        if dots or len(curve) == 1:
            for a, b in curve:
                cx, cy = place(a, b)
                size = (radius or {}).get(name, 3)
                told = f"<title>{escaped(name)} {a:g}, {b:.3g}</title>"
                parts.append(f'<circle class="{kind}" cx="{cx:.1f}" cy="{cy:.1f}" r="{size:.1f}">{told}</circle>')
    parts += _legend(names, series)
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img">{"".join(parts)}</svg>'


def _line(curve: Points, place: Callable[[float, float], tuple[float, float]], kind: str) -> str:
    at = " ".join(f"{a:.1f},{b:.1f}" for a, b in (place(*point) for point in curve))
    return f'<polyline class="{kind}" points="{at}"/>'


def _rows(names: Sequence[str]) -> int:
    return len(_places(names)[1])


def _places(names: Sequence[str]) -> tuple[list[tuple[float, int]], list[float]]:
    """Where each name of a legend stands, x and row; how long each row is."""
    places: list[tuple[float, int]] = []
    ends: list[float] = []
    for name in names if len(names) > 1 else []:
        long = 28 + LETTER * len(name)
        if not ends or ends[-1] + long > WIDTH - RIGHT:
            ends.append(LEFT)
        places.append((ends[-1], len(ends) - 1))
        ends[-1] += long
    return places, ends


def _legend(names: Sequence[str], series: Mapping[str, Points]) -> list[str]:
    parts = []
    order = list(series)
    for name, (x, row) in zip(names, _places(names)[0], strict=False):
        y = HEIGHT + LEGEND * row + 8
        kind = f"s{order.index(name) % len(COLOURS)}"
        parts.append(f'<line class="{kind}" x1="{x}" x2="{x + 14}" y1="{y - 4}" y2="{y - 4}" stroke-width="3"/>')
        parts.append(f'<text x="{x + 18}" y="{y}">{escaped(name)}</text>')
    return parts


def parts(shares: Mapping[str, int]) -> str:
    """One bar of what a whole consists of, with a line for each part; the first is in the first colour, and so on."""
    whole = max(1, sum(shares.values()))
    bar = "".join(
        f'<span class="s{i % len(COLOURS)}" style="flex: {count}; background: var(--s{i % len(COLOURS)})" '
        f'title="{escaped(name)}: {count:,}"></span>'
        for i, (name, count) in enumerate(shares.items())
        if count
    )
    rows = "".join(
        f'<tr><td><i class="dot" style="background: var(--s{i % len(COLOURS)})"></i>{escaped(name)}</td>'
        f"<td class=number>{count:,}</td><td class=number>{count / whole:.0%}</td></tr>"
        for i, (name, count) in enumerate(shares.items())
    )
    return f'<div class="parts">{bar}</div><table>{rows}</table>'
