"""Boxes with labels on pictures, with Pillow."""

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detrcli.render.colour import Colour, colour_of, contrast
from detrcli.render.overlay import overlay
from detrcli.segmentation.maps import PanopticMap, SemanticMap
from detrcli.structures import Classes, Detections
from detrcli.system.files import write_whole
from detrcli.system.text import escape_controls

Box = tuple[float, float, float, float]  # x0, y0, x1, y1
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

SMALLEST = 160  # a shorter side below this is enlarged
LARGEST_ZOOMED = 1600  # as far as the longer side stays within this
LABELS_SHARE = 0.12  # of the picture's area

# Looked for among the system's fonts when a name has signs that Pillow's own font lacks.
_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-zenhei.ttc",
    "wqy-microhei.ttc",
    "arial.ttf",
    "msyh.ttc",
    "malgun.ttf",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "unifont.otf",
)
_NO_SIGN = "\U0010ffff"  # what a font shows for this, it shows for every sign that it lacks


@dataclass(frozen=True)
class Mark:
    """A box to be drawn, in pixels, and what is written at it."""

    box: Box
    name: str
    category: int  # decides on the colour
    score: float | None = None  # surer marks lie on top; None for the ground truth
    mask: np.ndarray | None = None  # (H, W) bool, drawn in place of the box


def draw_detections(image: Image.Image, found: Detections) -> Image.Image:
    """A copy of an RGB picture with all detections marked."""
    return mark(
        image,
        [
            Mark((x0, y0, x1, y1), str(name), int(category), float(score), mask)
            for (x0, y0, x1, y1), name, category, score, mask in zip(
                found.boxes.tolist(),
                found.labels,
                found.category_ids,
                found.scores,
                found.masks or [None] * len(found),
                strict=True,
            )
        ],
    )


def draw_map(image: Image.Image, found: PanopticMap | SemanticMap) -> Image.Image:
    """A copy of an RGB picture with every segment, or class, of its map marked; larger ones lie below."""
    if isinstance(found, PanopticMap):
        marked = [(one.box, one.area, one.label, one.category_id, one.id) for one in found.segments]
    else:
        marked = [(one.box, one.area, one.label, one.category_id, one.category_id) for one in found.regions]
    return mark(
        image,
        [
            Mark((x, y, x + w, y + h), label, category, None, found.ids == id_)
            for (x, y, w, h), _, label, category, id_ in sorted(marked, key=lambda one: -one[1])
        ],
    )


def marks_of(
    boxes: Sequence[Box], labels: Sequence[int], classes: Classes, masks: Iterable[np.ndarray] | None = None
) -> list[Mark]:
    """The ground truth as marks, by class indices; by its masks (H, W) where they are given."""
    drawn: Iterable[np.ndarray | None] = [None] * len(labels) if masks is None else masks
    return [
        Mark(box, str(classes.names[label]), int(classes.ids[label]), mask=mask)
        for box, label, mask in zip(boxes, labels, drawn, strict=True)
    ]


def mark(image: Image.Image, marks: Sequence[Mark]) -> Image.Image:
    """A copy of an RGB picture with a box and a label for each mark, the surer ones on top.

    Where boxes crowd, the labels of the less sure are left out rather than laid over others or over too much
    of the picture. A picture too small for letters is enlarged by a whole number.
    """
    zoom = 1 if min(image.size) >= SMALLEST else math.ceil(1.5 * SMALLEST / min(image.size))
    zoom = max(1, min(zoom, LARGEST_ZOOMED // max(image.size)))
    canvas = image.resize((zoom * image.width, zoom * image.height), Image.Resampling.BICUBIC)
    canvas.info = dict(image.info)
    rising = sorted(marks, key=lambda mark: mark.score or 0.0)
    masks = [
        (one.mask.repeat(zoom, 0).repeat(zoom, 1), colour_of(one.category)) for one in rising if one.mask is not None
    ]
    if masks:
        canvas.paste(overlay(np.asarray(canvas), masks))
    draw = ImageDraw.Draw(canvas, "RGBA")
    shorter = min(canvas.size)
    line = max(1, round(math.sqrt(shorter) / 12))
    size = round(max(9, min(shorter / 26, 12 + shorter / 100) * (1 if len(marks) <= 25 else 0.75)))

    placed = [(mark, tuple(zoom * value for value in mark.box)) for mark in rising]
    for mark_, (x0, y0, x1, y1) in placed:
        if mark_.mask is None:
            outline(draw, (x0, y0, x1, y1), colour_of(mark_.category), line)

    taken: list[Box] = []
    left = LABELS_SHARE * canvas.width * canvas.height
    widest = round(min(canvas.width, max(0.6 * canvas.width, 120)))
    for mark_, (x0, y0, x1, y1) in reversed(placed):
        name = escape_controls(mark_.name)
        font = font_for(name, size)
        if font is None:
            name, font = f"#{mark_.category}", default_font(size)
        text = shorten(name, "" if mark_.score is None else f" {mark_.score:.2f}", font, widest)
        width, height = text_size(text, font)
        place = find_place((x0, y0, x1, y1), (width, height), canvas.size, taken, line)
        if text and place and width * height <= left:
            taken.append(place)
            left -= width * height
            write(draw, place, text, font, colour_of(mark_.category))
    return canvas


def save(image: Image.Image, path: Path) -> None:
    """Write a picture of the kind that its name says, with the colour profile that it came with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = io.BytesIO()
    kind = Image.registered_extensions()[path.suffix.lower()]
    # Full colour resolution and little loss: thin coloured lines smear at JPEG's defaults. PNG ignores both; its
    # default of 6 takes five times as long as 2, for a tenth less.
    image.save(data, kind, quality=92, subsampling=0, compress_level=2, icc_profile=image.info.get("icc_profile"))
    write_whole(path, data.getvalue())


def outline(draw: ImageDraw.ImageDraw, box: Box, colour: Colour, line: int) -> None:
    """A thin coloured frame with a faint hair of the opposite brightness, so that it shows on anything."""
    x0, y0, x1, y1 = (round(value) for value in box)
    x1, y1 = max(x0, x1 - 1), max(y0, y1 - 1)
    draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=(*contrast(colour), 130), width=1)
    draw.rectangle((x0, y0, x1, y1), outline=colour, width=line)


def write(draw: ImageDraw.ImageDraw, place: Box, text: str, font: Font, colour: Colour) -> None:
    """Text on a plate of the box' colour."""
    x0, y0, x1, y1 = place
    draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill=colour)
    draw.text(((x0 + x1) / 2, (y0 + y1) / 2), text, fill=contrast(colour), font=font, anchor="mm")


def text_size(text: str, font: Font) -> tuple[int, int]:
    """Width and height of the plate under a text; the height is the same for all texts of a font."""
    left, _, right, _ = font.getbbox(text)
    _, top, _, bottom = font.getbbox("Ág|")
    pad = max(1, round((bottom - top) / 6))
    return math.ceil(right - left) + 2 * pad + 2, math.ceil(bottom - top) + 2 * pad


def shorten(name: str, score: str, font: Font, widest: int) -> str:
    """Name and score; the name cut where it is wider than that; nothing where not even the score fits."""
    for length in range(len(name), -1, -1):
        text = name[:length] + ("…" if 0 < length < len(name) else "") + score
        if text_size(text, font)[0] <= widest:
            return text.strip()
    return ""


def find_place(box: Box, size: tuple[int, int], picture: tuple[int, int], taken: list[Box], line: int) -> Box | None:
    """A place for a label at the box, inside the picture and clear of what is taken; None if there is none."""
    (width, height), (right_end, bottom_end) = size, picture
    x0, x1 = (max(0, min(round(x), right_end)) for x in box[::2])
    y0, y1 = (max(0, min(round(y), bottom_end)) for y in box[1::2])
    corners = [
        (x0 - 1, y0 - height),  # on top
        (x0 + line, y0 + line),  # inside, at the top
        (x1 - width + 1, y0 - height),
        (x0 - 1, y1),  # below
        (x0 + line, y1 - height - line),  # inside, at the bottom
        (x1 - width - line, y0 + line),
        (x1 - width + 1, y1),
        (x1 - width - line, y1 - height - line),
        (x1 + 1, y0),  # beside
        (x0 - width - 1, y0),
    ]
    for x, y in corners:
        x = max(0, min(x, right_end - width))
        if y < 0 or y + height > bottom_end:
            continue
        place = (x, y, x + width, y + height)
        if not any(overlap(place, other) for other in taken):
            return place
    return None


def overlap(a: Box, b: Box) -> bool:
    """Whether two boxes share some area."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def grid_figure(pictures: Sequence[tuple[Image.Image, str]], columns: int = 4, cell: int = 320) -> Image.Image:
    """Pictures with a caption each, in rows, none larger than its cell."""
    font, gap = default_font(14), 10
    fitted = [_fitted(picture, cell) for picture, _ in pictures]
    tallest, rows = max(picture.height for picture in fitted), math.ceil(len(pictures) / columns)
    across, down = cell + gap, tallest + gap + 24
    page = Image.new("RGB", (min(columns, len(pictures)) * across + gap, rows * down + gap), "white")
    draw = ImageDraw.Draw(page)
    for i, (picture, (_, caption)) in enumerate(zip(fitted, pictures, strict=True)):
        x, y = gap + i % columns * across, gap + i // columns * down
        page.paste(picture, (x + (cell - picture.width) // 2, y + tallest - picture.height))
        text = shorten(escape_controls(caption), "", font_for(escape_controls(caption), 14) or font, cell)
        draw.text((x + cell / 2, y + tallest + 4), text, fill="black", font=font_for(text, 14) or font, anchor="ma")
    return page


def _fitted(picture: Image.Image, cell: int) -> Image.Image:
    """As large as a square cell takes."""
    scale = cell / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.BICUBIC)


def default_font(size: int) -> Font:
    """Pillow's own font."""
    return ImageFont.load_default(size)


@cache
def font_for(text: str, size: int) -> Font | None:
    """A font with all the signs of a text, Pillow's own if it has them; None if no font here has."""
    for font in (default_font(size), *_system_fonts(size)):
        lack = font.getmask(_NO_SIGN).getbbox(), bytes(font.getmask(_NO_SIGN))
        signs = {char for char in text if not char.isspace()}
        if all((font.getmask(c).getbbox(), bytes(font.getmask(c))) != lack for c in signs):
            return font
    return None


@cache
def _system_fonts(size: int) -> list[Font]:
    fonts: list[Font] = []
    for name in _FONTS:
        try:
            fonts.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return fonts
