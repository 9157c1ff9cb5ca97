"""Boxes, masks and labels on images, and images in grids, with Pillow."""

import io
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detrcli.errors import UsageError
from detrcli.messages import argument
from detrcli.render.color import Color, color_of, contrast
from detrcli.segmentation.maps import PanopticMap, Region, Segment, SemanticMap
from detrcli.structures import Classes, Detections
from detrcli.system.files import write_whole
from detrcli.system.text import escape_controls

Box = tuple[float, float, float, float]  # xyxy
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

MIN_SIDE = 160  # images with a shorter side are enlarged,
MAX_ENLARGED = 1600  # as long as the longer side stays within this
LABEL_SHARE = 0.12  # of the image's area that labels may cover
MASK_OPACITY, OUTLINE_OPACITY = 0.42, 0.95

# System fonts for names with characters that Pillow's own font lacks.
_FONTS = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "wqy-zenhei.ttc", "wqy-microhei.ttc",
    "arial.ttf", "msyh.ttc", "malgun.ttf", "Arial Unicode.ttf", "PingFang.ttc", "unifont.otf",
)  # fmt: skip
_MISSING = "\U0010ffff"  # fonts show this character as they show any that they lack


@dataclass(frozen=True)
class Mark:
    """A box to be drawn, in pixels, and its label."""

    box: Box
    name: str
    category: int  # determines the color
    score: float | None = None  # higher scores are drawn on top; None for the ground truth
    mask: np.ndarray | None = None  # (H, W) bool, drawn instead of the box


@dataclass(frozen=True)
class DrawingStyle:
    """How marks are drawn on an image."""

    line_width: int | None = None  # of boxes and of the edges of masks, in pixels; by default from the image's size
    labels: bool = True  # class names and scores

    def __post_init__(self) -> None:
        if self.line_width is not None and self.line_width < 1:
            raise UsageError(f"{argument('line_width', self.line_width)}: it must be at least 1.")


DEFAULT_STYLE = DrawingStyle()


def draw_detections(image: Image.Image, detections: Detections, style: DrawingStyle = DEFAULT_STYLE) -> Image.Image:
    """Return a copy of an RGB image with the best detection of each query marked."""
    d = detections.best_of_queries()
    masks = d.masks or [None] * len(d)
    columns = zip(d.boxes.tolist(), d.labels.tolist(), d.category_ids.tolist(), d.scores.tolist(), masks, strict=True)
    return mark(image, [Mark(*values) for values in columns], style)


def draw_map(image: Image.Image, map_: PanopticMap | SemanticMap, style: DrawingStyle = DEFAULT_STYLE) -> Image.Image:
    """Return a copy of an RGB image with every segment or class of its map marked, smaller ones on top."""
    regions: Sequence[Region] = map_.segments if isinstance(map_, PanopticMap) else map_.regions
    marks = []
    for region in sorted(regions, key=lambda region: -region.area):
        x, y, w, h = region.box
        mask = map_.ids == (region.id if isinstance(region, Segment) else region.category_id)
        marks.append(Mark((x, y, x + w, y + h), region.label, region.category_id, mask=mask))
    return mark(image, marks, style)


def marks_of(
    boxes: Sequence[Box], labels: Sequence[int], classes: Classes, masks: Iterable[np.ndarray] | None = None
) -> list[Mark]:
    """Return the ground truth as marks, from class indices; with masks (H, W) if they are given."""
    rows = zip(boxes, labels, [None] * len(labels) if masks is None else masks, strict=True)
    return [Mark(box, str(classes.names[i]), int(classes.ids[i]), mask=mask) for box, i, mask in rows]


def mark(image: Image.Image, marks: Sequence[Mark], style: DrawingStyle = DEFAULT_STYLE) -> Image.Image:
    """Return a copy of an RGB image with a box or mask and a label for each mark, higher scores on top.

    In crowded places, labels of lower scores are omitted instead of covering other labels or too much of the image.
    Images too small for letters are enlarged by an integer.
    """
    legible = min(image.size) >= MIN_SIDE or not style.labels
    zoom = 1 if legible else math.ceil(1.5 * MIN_SIDE / min(image.size))
    zoom = max(1, min(zoom, MAX_ENLARGED // max(image.size)))
    canvas = image.resize((zoom * image.width, zoom * image.height), Image.Resampling.BICUBIC)
    canvas.info = dict(image.info)
    marks = sorted(marks, key=lambda mark: mark.score or 0.0)
    colored = [(item, color_of(item.category)) for item in marks]
    masks = [(item.mask.repeat(zoom, 0).repeat(zoom, 1), color) for item, color in colored if item.mask is not None]
    if masks:
        canvas.paste(overlay_masks(np.asarray(canvas), masks, style.line_width))
    draw = ImageDraw.Draw(canvas, "RGBA")
    shorter = min(canvas.size)
    line = style.line_width or max(1, round(math.sqrt(shorter) / 12))
    size = round(max(9, min(shorter / 26, 12 + shorter / 100) * (1 if len(marks) <= 25 else 0.75)))
    for item, color in colored:
        if item.mask is None:
            x0, y0, x1, y1 = scaled(item.box, zoom)
            half = (line - 1) // 2  # wide lines are centered on the edges of the box, not to hide small objects
            outline(draw, (x0 - half, y0 - half, x1 + half, y1 + half), color, line)
    if not style.labels:
        return canvas

    taken: list[Box] = []
    remaining = LABEL_SHARE * canvas.width * canvas.height
    widest = round(min(canvas.width, max(0.6 * canvas.width, 120)))
    for item, color in reversed(colored):
        name = escape_controls(item.name)
        font = font_for(name, size)
        if font is None:
            name, font = f"#{item.category}", default_font(size)
        text = shorten(name, "" if item.score is None else f" {item.score:.2f}", font, widest)
        width, height = text_size(text, font)
        place = find_place(scaled(item.box, zoom), (width, height), canvas.size, taken, line)
        if text and place and width * height <= remaining:
            taken.append(place)
            remaining -= width * height
            write(draw, place, text, font, color)
    return canvas


def scaled(box: Box, factor: float) -> Box:
    x0, y0, x1, y1 = box
    return factor * x0, factor * y0, factor * x1, factor * y1


def save(image: Image.Image, path: Path, quality: int = 92) -> None:
    """Write an image in the format of the path's suffix, with its color profile. `quality` is that of JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = io.BytesIO()
    kind = Image.registered_extensions()[path.suffix.lower()]
    # Full color resolution and little loss: thin colored lines smear with JPEG's defaults. PNG ignores both options;
    # its default compression of 6 takes five times as long as 2, for files that are a tenth smaller.
    image.save(data, kind, quality=quality, subsampling=0, compress_level=2, icc_profile=image.info.get("icc_profile"))
    write_whole(path, data.getvalue())


def png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def overlay_masks(
    image: np.ndarray, masks: Iterable[tuple[np.ndarray, Color]], line_width: int | None = None
) -> Image.Image:
    """Draw masks (H, W) over an image (H, W, 3) uint8, later ones on top: a translucent fill and a thin outline."""
    canvas = image.astype(np.float32)
    line = line_width or max(1, round(math.sqrt(min(image.shape[:2])) / 14))
    for mask, color in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            continue
        part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        opacity = np.where(eroded(mask[part], line), MASK_OPACITY, OUTLINE_OPACITY * mask[part])[..., None]
        canvas[part] += opacity.astype(np.float32) * (np.array(color, np.float32) - canvas[part])
    return Image.fromarray(canvas.round().astype(np.uint8))


def eroded(mask: np.ndarray, by: int) -> np.ndarray:
    """Remove the pixels along the edge of a mask (H, W), `by` of them. The frame of the image counts as an edge."""
    height, width = mask.shape
    padded = np.pad(mask, by)
    inside = np.ones_like(mask)
    for step in range(2 * by + 1):
        inside &= padded[step : step + height, by : by + width] & padded[by : by + height, step : step + width]
    return inside


def outline(draw: ImageDraw.ImageDraw, box: Box, color: Color, line: int) -> None:
    """Draw a colored frame with a faint hairline of opposite brightness, visible on any background."""
    x0, y0, x1, y1 = (round(value) for value in box)
    x1, y1 = max(x0, x1 - 1), max(y0, y1 - 1)
    draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=(*contrast(color), 130), width=1)
    draw.rectangle((x0, y0, x1, y1), outline=color, width=line)


def write(draw: ImageDraw.ImageDraw, place: Box, text: str, font: Font, color: Color) -> None:
    x0, y0, x1, y1 = place
    draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill=color)
    draw.text(((x0 + x1) / 2, (y0 + y1) / 2), text, fill=contrast(color), font=font, anchor="mm")


def text_size(text: str, font: Font) -> tuple[int, int]:
    """Return width and height of the plate under a text. The height is the same for all texts of a font."""
    left, _, right, _ = font.getbbox(text)
    _, top, _, bottom = font.getbbox("Ág|")
    pad = max(1, round((bottom - top) / 6))
    return math.ceil(right - left) + 2 * pad + 2, math.ceil(bottom - top) + 2 * pad


def shorten(name: str, score: str, font: Font, widest: float) -> str:
    """Return name and score, the name cut to this width. Returns an empty string if the score alone is wider."""
    for length in range(len(name), -1, -1):
        text = name[:length] + ("…" if 0 < length < len(name) else "") + score
        if text_size(text, font)[0] <= widest:
            return text.strip()
    return ""


def fitted(text: str, size: int, widest: float) -> tuple[str, Font]:
    """Return a text cut to this width, with control characters escaped, and a font for it."""
    text = escape_controls(text)
    font = font_for(text, size) or default_font(size)
    return shorten(text, "", font, widest), font


def find_place(box: Box, size: tuple[int, int], image: tuple[int, int], taken: list[Box], line: int) -> Box | None:
    """Return a place for a label of this size at the box, inside the image and free; None if there is none."""
    (width, height), (right_end, bottom_end) = size, image
    x0, x1 = (max(0, min(round(x), right_end)) for x in box[::2])
    y0, y1 = (max(0, min(round(y), bottom_end)) for y in box[1::2])
    corners = [
        (x0 - 1, y0 - height),  # above
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
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def resized(image: Image.Image, side: float, method: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
    """Return an image scaled so that its longer side has this length."""
    scale = side / max(image.size)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), method)


def grid_figure(images: Sequence[tuple[Image.Image, str]], columns: int = 4, cell: int = 320) -> Image.Image:
    """Return images with captions in rows, each scaled to a square cell."""
    gap = 10
    tiles = [resized(image, cell) for image, _ in images]
    tallest, rows = max(image.height for image in tiles), math.ceil(len(images) / columns)
    across, down = cell + gap, tallest + gap + 24
    page = Image.new("RGB", (min(columns, len(images)) * across + gap, rows * down + gap), "white")
    draw = ImageDraw.Draw(page)
    for i, (image, (_, caption)) in enumerate(zip(tiles, images, strict=True)):
        x, y = gap + i % columns * across, gap + i // columns * down
        page.paste(image, (x + (cell - image.width) // 2, y + tallest - image.height))
        text, font = fitted(caption, 14, cell)
        draw.text((x + cell / 2, y + tallest + 4), text, fill="black", font=font, anchor="ma")
    return page


def stacked(images: Sequence[Image.Image], gap: int = 0, margin: int = 0) -> Image.Image:
    height = sum(image.height for image in images) + gap * (len(images) - 1) + 2 * margin
    page = Image.new("RGB", (max(image.width for image in images) + 2 * margin, height), "white")
    y = margin
    for image in images:
        page.paste(image, (margin, y))
        y += image.height + gap
    return page


def legend(entries: Sequence[tuple[Color | None, str]], width: int, size: int = 12) -> Image.Image:
    """Return texts with their colors, in lines of at most this width unless a text is wider."""
    font, line = default_font(size), size + 8
    lengths = [math.ceil(font.getlength(text)) + (0 if color is None else 22) + 24 for color, text in entries]
    places = flow(lengths, width)
    widest = max(x + length for (x, _), length in zip(places, lengths, strict=True))
    page = Image.new("RGB", (round(widest), (places[-1][1] + 1) * line), "white")
    draw = ImageDraw.Draw(page)
    for (color, text), (x, row) in zip(entries, places, strict=True):
        y = row * line
        if color is not None:
            draw.rectangle((x, y + 4, x + 16, y + size + 2), fill=color)
        draw.text((x + (0 if color is None else 22), y + 2), text, fill="black", font=font)
    return page


def flow(lengths: Sequence[float], width: float) -> list[tuple[float, int]]:
    """Return x and row of items that are laid out in rows of at most this width, unless an item is wider."""
    places, x, row = [], 0.0, 0
    for length in lengths:
        if x and x + length > width:
            x, row = 0.0, row + 1
        places.append((x, row))
        x += length
    return places


def default_font(size: int) -> Font:
    return ImageFont.load_default(size)


@cache
def font_for(text: str, size: int) -> Font | None:
    """Return a font with all characters of a text, preferably Pillow's own; None if no font has them."""
    for font in (default_font(size), *_system_fonts(size)):
        missing = font.getmask(_MISSING).getbbox(), bytes(font.getmask(_MISSING))
        characters = {char for char in text if not char.isspace()}
        if all((font.getmask(c).getbbox(), bytes(font.getmask(c))) != missing for c in characters):
            return font
    return None


@cache
def _system_fonts(size: int) -> list[Font]:
    fonts: list[Font] = []
    for name in _FONTS:
        with suppress(OSError):
            fonts.append(ImageFont.truetype(name, size))
    return fonts
