"""Pages that need nothing but themselves: one HTML file with its pictures, and what moves them, inside."""

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape as escape_html
from pathlib import Path
from typing import Any

from PIL import Image

from detrcli.system.files import write_whole
from detrcli.system.text import escape_controls

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; }
h2 { font-size: 1.2rem; margin-top: 2.4rem; }
pre { background: #8882; padding: .6rem .8rem; border-radius: .4rem; white-space: pre-wrap; overflow-wrap: anywhere; }
figure { margin: 1rem 0; }
figcaption { color: #777; font-size: .9rem; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; }
td, th { padding: .1rem 1.2rem .1rem 0; text-align: left; vertical-align: top; }
td:not(:last-child) { white-space: nowrap; }
@media (max-width: 600px) { td:not(:last-child) { white-space: normal; } td, th { padding-right: .6rem; } }
.wide { overflow-x: auto; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
"""

Cell = str | int | float


@dataclass(frozen=True)
class Section:
    """A part of a page: what was done, with its command, and what came of it."""

    title: str
    text: str = ""
    command: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()
    pictures: Sequence[tuple[Image.Image, str]] = ()  # with what they show
    widget: str = ""  # HTML of our own, which the page's script brings to life


def write_page(
    path: Path,
    title: str,
    introduction: str,
    sections: Sequence[Section],
    *,
    data: Mapping[str, Any] | None = None,
    script: str = "",
) -> None:
    """Write a page. Its script finds the data as JSON in the element `data`."""
    numbers = json.dumps(data or {}, ensure_ascii=True, allow_nan=False).replace("<", "\\u003c")
    parts = [f"<h1>{escaped(title)}</h1>", f"<p>{_prose(introduction)}</p>", *map(_section, sections)]
    if script:
        parts.append(f'<script type="application/json" id="data">{numbers}</script><script>{script}</script>')
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n<link rel="icon" href="data:,">\n'
        f"<title>{escaped(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        "<body>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page.encode())


def measured(value: float) -> str:
    """A COCO number, which is -1 where there is nothing to find."""
    return "none" if value == -1 else f"{value:.3f}"


def as_url(image: Image.Image) -> str:
    """A picture as a URL that holds all of it."""
    data = io.BytesIO()
    image.save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def _section(section: Section) -> str:
    parts = [f"<h2>{escaped(section.title)}</h2>"] if section.title else []
    if section.text:
        parts.append(f"<p>{_prose(section.text)}</p>")
    if section.command:
        parts.append(f"<pre>{escaped(section.command)}</pre>")
    if section.rows:
        parts.append(f'<div class="wide">{_table(section.columns, section.rows)}</div>')
    parts.append(section.widget)
    parts += [
        f'<figure><img alt="{escaped(what)}" src="{as_url(image)}"><figcaption>{escaped(what)}</figcaption></figure>'
        for image, what in section.pictures
    ]
    return "".join(parts)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    numeric = [all(re.fullmatch(r"[-+]?[\d,.]+%?", _shown(row[i])) for row in rows) for i in range(len(columns))]

    def line(tag: str, values: Sequence[Cell]) -> str:
        cells = (
            f"<{tag}{' class=number' if number else ''}>{escaped(_shown(value))}</{tag}>"
            for value, number in zip(values, numeric, strict=True)
        )
        return f"<tr>{''.join(cells)}</tr>"

    return f"<table>{line('th', columns)}{''.join(line('td', row) for row in rows)}</table>"


def _shown(value: Cell) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _prose(text: str) -> str:
    """Text in which `words` stand for themselves."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escaped(text))


def escaped(text: str) -> str:
    """Text of anybody's as a page may hold it."""
    return escape_html("\n".join(escape_controls(line) for line in text.split("\n")))
