"""Boxes with labels on pictures, with Pillow."""

import math
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detrcli.structures import Detections
from detrcli.text import visible

Box = tuple[float, float, float, float]  # x0, y0, x1, y1
Colour = tuple[int, int, int]
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


def annotate(image: Image.Image, found: Detections) -> Image.Image:
    """A copy of an RGB picture with a box and a label for each detection, the surer ones on top.

    Where boxes crowd, the labels of the less sure are left out rather than laid over others or over too much
    of the picture. A picture too small for letters is enlarged by a whole number.
    """
    zoom = 1 if min(image.size) >= SMALLEST else math.ceil(1.5 * SMALLEST / min(image.size))
    zoom = max(1, min(zoom, LARGEST_ZOOMED // max(image.size)))
    canvas = image.resize((zoom * image.width, zoom * image.height), Image.Resampling.BICUBIC)
    canvas.info = dict(image.info)
    draw = ImageDraw.Draw(canvas, "RGBA")
    boxes: list[Box] = [(x0, y0, x1, y1) for x0, y0, x1, y1 in (zoom * found.boxes).tolist()]
    shorter = min(canvas.size)
    line = max(1, round(math.sqrt(shorter) / 12))
    size = round(max(9, min(shorter / 26, 12 + shorter / 100) * (1 if len(boxes) <= 25 else 0.75)))

    rising = np.argsort(found.scores, kind="stable")
    for i in rising:
        outline(draw, boxes[i], colour_of(found.category_ids[i]), line)

    taken: list[Box] = []
    left = LABELS_SHARE * canvas.width * canvas.height
    for i in rising[::-1]:
        name = visible(str(found.labels[i]))
        font = font_for(name, size)
        if font is None:
            name, font = f"#{found.category_ids[i]}", default_font(size)
        text = shorten(name, found.scores[i], font, canvas.width)
        width, height = text_size(text, font)
        place = find_place(boxes[i], (width, height), canvas.size, taken, line)
        if text and place and width * height <= left:
            taken.append(place)
            left -= width * height
            write(draw, place, text, font, colour_of(found.category_ids[i]))
    return canvas


def save(image: Image.Image, path: Path) -> None:
    """Write a picture of the kind that its name says, with the colour profile that it came with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Full colour resolution and little loss: thin coloured lines smear at JPEG's defaults. PNG ignores both.
    image.save(path, quality=92, subsampling=0, icc_profile=image.info.get("icc_profile"))


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


def shorten(name: str, score: float, font: Font, width: int) -> str:
    """Name and score; the name cut where the picture is too narrow; nothing where not even the score fits."""
    said = f"{score:.2f}"
    widest = min(width, max(0.6 * width, 120))
    if text_size(said, font)[0] > width:
        return ""
    if text_size(f"{name} {said}", font)[0] <= widest:
        return f"{name} {said}"
    for length in range(len(name) - 1, 0, -1):
        if text_size(f"{name[:length]}… {said}", font)[0] <= widest:
            return f"{name[:length]}… {said}"
    return said


def find_place(
    box: Box, size: tuple[int, int], picture: tuple[int, int], taken: list[Box], line: int
) -> Box | None:
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


@cache
def colour_of(category: int) -> Colour:
    """The colour of a class, the same everywhere: neighbours in number are far apart in hue and lightness.

    Hues go round by the golden angle, lightness through three steps, in the perceptual space OKLCH.
    """
    hue = math.radians(25 + 137.508 * int(category))
    lightness, chroma = (0.70, 0.80, 0.58)[int(category) % 3], 0.17
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    to_cone = np.array(
        [
            [1, 0.3963377774, 0.2158037573],
            [1, -0.1055613458, -0.0638541728],
            [1, -0.0894841775, -1.2914855480],
        ]
    )
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = (to_rgb @ (to_cone @ (lightness, a, b)) ** 3).clip(0, 1)
    red, green, blue = (
        (255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))
        .round()
        .astype(int)
        .tolist()
    )
    return red, green, blue


def contrast(colour: Colour) -> Colour:
    """Black or white, whichever stands out more (relative luminance, WCAG)."""
    linear = (np.array(colour) / 255) ** 2.2
    return (0, 0, 0) if linear @ (0.2126, 0.7152, 0.0722) > 0.179 else (255, 255, 255)
