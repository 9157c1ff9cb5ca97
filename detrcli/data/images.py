"""Pictures as people have them, opened as they are seen: upright, in colour, on white."""

import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)
from PIL.ImageFile import ImageFile

from detrcli.data.not_pictures import missing, no_file, no_picture
from detrcli.errors import DataError
from detrcli.system.text import escape_controls

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
MAX_PIXELS = 200_000_000  # of what is opened anywhere, unless told otherwise

UPRIGHT = 1
_SIXTEEN_BITS = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})


class _Tiff(TiffImagePlugin.TiffImageFile):
    def load_prepare(self) -> None:
        if self._im is None:  # where Pillow would ask for its own limit
            self.im = Image.new(self.mode, self._tile_size).im
        super().load_prepare()


_READERS: dict[str, Callable[[IO[bytes]], ImageFile]] = {
    "JPEG": JpegImagePlugin.jpeg_factory,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": _Tiff,
    "GIF": GifImagePlugin.GifImageFile,
}
FORMATS = tuple(_READERS)


@dataclass(frozen=True)
class File:
    """A picture on disk, and whether it is turned as EXIF says."""

    path: Path
    turn: bool = True

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class Picture:
    """A picture to look at."""

    image: Image.Image  # RGB
    notes: Sequence[str]  # what a user should know of how it was read


@contextmanager
def opened(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[ImageFile]:
    """A file's header, its pixels not yet decoded.

    Pillow's readers are called without Image.open, which has a limit of its own: one for the whole process, of
    which others may have their own opinion. (Its reader of WebP keeps that limit, 179 megapixels, here too.)
    They are given an open file, because of a path they map the memory, and that scrambles a TIFF that is to be
    turned sideways.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise DataError(no_file(path, SUFFIXES))  # a pipe would be waited for
    with path.open("rb") as file, _read(file) as image:
        if image.width * image.height > max_pixels:
            raise DataError(f"it has {image.width} x {image.height} pixels, more than the {max_pixels:,} allowed")
        yield image


def _read(file: IO[bytes]) -> ImageFile:
    for read in _READERS.values():
        file.seek(0)
        with suppress(SyntaxError):  # Pillow's word for a file of another format
            return read(file)
    raise UnidentifiedImageError


def open_picture(path: Path, max_pixels: int = MAX_PIXELS, *, turn: bool = True) -> Picture:
    """Decode a file whole, turned as EXIF says unless told otherwise.

    What is wrong with it is a DataError that says so, without naming the file.
    """
    try:
        with opened(path, max_pixels) as image:
            # A photograph may carry a second, smaller one (MPO), which is no frame. Asked before the pixels
            # are loaded, because a TIFF forgets them when it counts.
            animated = getattr(image, "is_animated", False) and image.format != "MPO"
            image.load()
            notes = ["only the first of its frames was read"] if animated else []
            return Picture(as_displayed(image) if turn else to_rgb(image), notes)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(missing(path)) from None
    except PermissionError:
        raise DataError("it may not be read (permission denied)") from None
    except UnidentifiedImageError:
        raise DataError(no_picture(path, ", ".join(FORMATS))) from None
    except Exception as error:  # there is nothing that Pillow's decoders do not raise for a broken file
        raise DataError(f"it cannot be decoded ({escape_controls(str(error)) or type(error).__name__})") from error


def as_displayed(image: Image.Image) -> Image.Image:
    """A Pillow image upright and in RGB; what cannot be brought to that is a DataError."""
    if 0 in image.size:
        raise DataError("it has no pixels")
    try:
        return to_rgb(upright(image))
    except DataError:
        raise
    except Exception as error:  # as above: a lazily read image breaks only now
        raise DataError(f"it cannot be decoded ({escape_controls(str(error)) or type(error).__name__})") from error


def upright(image: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF orientation says. A broken EXIF says nothing."""
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT) != UPRIGHT
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # Pillow raises what the damage brings it to
        return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Any kind of pixels as RGB of 8 bits: what is transparent on white, 16 bits scaled."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    converted = _convert(image)
    converted.info = {}  # a profile of the old colours does not describe the new ones
    return converted


def _convert(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BITS:
        values = np.asarray(image).astype(np.int64)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise DataError("its pixels are integers beyond 16 bits, of no known scale")
        grey = ((values + 128) // 257).astype(np.uint8)
        grey[values == image.info.get("transparency", -1)] = 255
        image = Image.fromarray(grey)
    if image.mode == "F":
        raise DataError("its pixels are floating-point numbers, of no known scale")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
