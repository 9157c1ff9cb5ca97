"""Self-contained HTML pages: text, tables, figures and scripts in one file."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape as escape_html
from pathlib import Path
from typing import Any

from PIL import Image

from detrcli.render.draw import png, resized
from detrcli.system.files import write_whole
from detrcli.system.text import escape_controls

STYLE = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
LONGEST_SIDE = 900  # pixels of an image on a page

Cell = str | int | float


@dataclass(frozen=True)
class Section:
    """A part of a page."""

    title: str
    text: str = ""
    command: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()
    figures: Sequence[tuple[Image.Image, str]] = ()  # images with captions
    html: str = ""  # inserted as it is


def write_page(
    path: Path,
    title: str,
    introduction: str,
    sections: Sequence[Section],
    *,
    style: str = "",
    data: Mapping[str, Any] | None = None,
    script: str = "",
) -> None:
    """Write a page. Its script reads the data as JSON from the element `data`."""
    parts = [f"<h1>{escaped(title)}</h1>", f"<p>{_prose(introduction)}</p>", *map(_section, sections)]
    if script:
        text = json.dumps(data or {}, ensure_ascii=True, allow_nan=False).replace("<", "\\u003c")
        parts.append(f'<script type="application/json" id="data">{text}</script><script>{script}</script>')
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n<link rel="icon" href="data:,">\n'
        f"<title>{escaped(title)}</title>\n<style>\n{STYLE}{style}</style>\n</head>\n"
        "<body>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page.encode())


def measured(value: float) -> str:
    """Format a COCO metric, which is -1 without ground truth."""
    return "none" if value == -1 else f"{value:.3f}"


def shrunk(image: Image.Image) -> Image.Image:
    """Return an image scaled down to the size of pages, if it is larger."""
    return image if max(image.size) <= LONGEST_SIDE else resized(image, LONGEST_SIDE, Image.Resampling.LANCZOS)


def data_url(image: Image.Image) -> str:
    return f"data:image/png;base64,{base64.b64encode(png(image)).decode()}"


def _section(section: Section) -> str:
    parts = [f"<h2>{escaped(section.title)}</h2>"] if section.title else []
    if section.text:
        parts.append(f"<p>{_prose(section.text)}</p>")
    if section.command:
        parts.append(f"<pre>{escaped(section.command)}</pre>")
    if section.rows:
        parts.append(f'<div class="wide">{_table(section.columns, section.rows)}</div>')
    parts.append(section.html)
    for image, caption in section.figures:
        text = escaped(caption)
        parts.append(f'<figure><img alt="{text}" src="{data_url(image)}"><figcaption>{text}</figcaption></figure>')
    return "".join(parts)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    texts = [[f"{value:.3f}" if isinstance(value, float) else str(value) for value in row] for row in rows]
    numeric = [all(re.fullmatch(r"[-+]?[\d,.]+%?", text) for text in column) for column in zip(*texts, strict=True)]

    def line(tag: str, cells: Sequence[str]) -> str:
        tags = (f"{tag} class=number" if number else tag for number in numeric)
        texts = (f"<{start}>{escaped(text)}</{tag}>" for start, text in zip(tags, cells, strict=True))
        return f"<tr>{''.join(texts)}</tr>"

    return f"<table>{line('th', columns)}{''.join(line('td', row) for row in texts)}</table>"


def _prose(text: str) -> str:
    """Escape a text and format the parts in backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escaped(text))


def escaped(text: str) -> str:
    """Escape a text for HTML, and its control characters."""
    return escape_html("\n".join(escape_controls(line) for line in text.split("\n")))
