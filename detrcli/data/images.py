"""Image files: opened as they are displayed (upright, in RGB, on white), found by arguments, and named by datasets."""

import glob
import os
import posixpath
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

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

from detrcli.errors import DataError
from detrcli.system.text import escape_controls

MAX_PIXELS = 200_000_000  # of an image, unless another limit is given
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"})

UPRIGHT = 1  # the EXIF orientation of images that are not rotated


class _Tiff(TiffImagePlugin.TiffImageFile):
    def load_prepare(self) -> None:
        if self._im is None:  # where Pillow would apply its own limit
            self.im = Image.new(self.mode, self._tile_size).im
        super().load_prepare()


_READERS: tuple[Callable[[IO[bytes]], ImageFile], ...] = (
    JpegImagePlugin.jpeg_factory,
    PngImagePlugin.PngImageFile,
    WebPImagePlugin.WebPImageFile,
    BmpImagePlugin.BmpImageFile,
    _Tiff,
    GifImagePlugin.GifImageFile,
)
MISSING = "no such file"
NOT_AN_IMAGE = "not a JPEG, PNG, WEBP, BMP, TIFF or GIF image"
VIDEO = "it is a video: extract its frames (ffmpeg -i FILE -vf fps=1 frames/%05d.png), and give their folder"


@dataclass(frozen=True)
class File:
    path: Path
    turn: bool = True

    def __str__(self) -> str:
        return str(self.path)


class OpenedImage(NamedTuple):
    image: Image.Image  # RGB
    notes: Sequence[str]  # for the user, about how it was read


@contextmanager
def opened(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[ImageFile]:
    """Open an image file without decoding its pixels.

    Pillow's readers are called without Image.open, whose limit on pixels is a global setting that other code may
    change. (Its WebP reader applies that limit, 179 megapixels, here too.) They get an open file, because for a path
    they map the memory, which scrambles a TIFF that is to be rotated.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise DataError(_not_a_file(path))  # reading a pipe would block
    with path.open("rb") as file, _read(file) as image:
        if image.width * image.height > max_pixels:
            raise DataError(f"it has {image.width} x {image.height} pixels, more than the {max_pixels:,} allowed")
        yield image


def _read(file: IO[bytes]) -> ImageFile:
    for read in _READERS:
        file.seek(0)
        with suppress(SyntaxError):  # raised by Pillow for a file of another format
            return read(file)
    raise UnidentifiedImageError


@contextmanager
def image_errors(path: Path = Path()) -> Iterator[None]:
    """Convert exceptions while an image is opened and decoded to DataError, with the reason but not the file."""
    try:
        yield
    except DataError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        web = is_web_address(path)
        raise DataError("it is a web address: download it, and give the file" if web else MISSING) from None
    except PermissionError:
        raise DataError("it cannot be read (permission denied)") from None
    except UnidentifiedImageError:
        raise DataError(VIDEO if path.suffix.lower() in VIDEO_SUFFIXES else NOT_AN_IMAGE) from None
    except Exception as error:  # Pillow's decoders raise any exception for a broken file
        raise DataError(f"it cannot be decoded ({escape_controls(str(error)) or type(error).__name__})") from error


def _not_a_file(path: Path) -> str:
    if not path.is_dir():
        return "not a regular file"
    inside = min((file.name for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES), default=None)
    if inside is None:
        return "it is a folder without images"
    return f"it is a folder; name an image in it, such as {escape_controls(inside)}"


def open_image(path: Path, max_pixels: int = MAX_PIXELS, *, turn: bool = True) -> OpenedImage:
    """Decode an image file, with its EXIF orientation applied unless `turn` is False.

    Raises DataError with the reason, which does not name the file.
    """
    with image_errors(path), opened(path, max_pixels) as image:
        # The second image of a phone's MPO file is no frame. The frames are counted before the pixels are loaded,
        # because counting those of a TIFF discards them.
        animated = getattr(image, "is_animated", False) and image.format != "MPO"
        image.load()
        notes = ["only the first of its frames was read"] if animated else []
        return OpenedImage(as_displayed(image) if turn else to_rgb(image), notes)


def as_displayed(image: Image.Image) -> Image.Image:
    """Return a Pillow image upright and in RGB. Raises DataError if that is not possible."""
    if 0 in image.size:
        raise DataError("it has no pixels")
    with suppress(Exception):  # Pillow raises any exception for malformed EXIF, which is ignored
        if image.getexif().get(ExifTags.Base.Orientation, UPRIGHT) != UPRIGHT:
            image = ImageOps.exif_transpose(image)
    with image_errors():  # an image that Pillow reads lazily fails here
        return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert pixels of any kind to 8-bit RGB, with transparency on white and 16 bits scaled."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # I, or I;16 in some byte order
        values = np.asarray(image).astype(np.int64)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise DataError("its pixels are integers beyond 16 bits, of unknown scale")
        gray = ((values + 128) // 257).astype(np.uint8)
        gray[values == image.info.get("transparency", -1)] = 255
        image = Image.fromarray(gray)
    if image.mode == "F":
        raise DataError("its pixels are floating-point numbers of unknown scale")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    converted = image.convert("RGB")
    converted.info = {}  # a profile of the old colors does not describe the new ones
    return converted


def find_images(arguments: Iterable[str]) -> Iterator[tuple[Path, Path]]:
    """Yield images by file, folder (recursively) or pattern, in the order of the arguments, sorted in each.

    Each comes with its path relative to the folder given as argument, or the file name for a file given by itself.
    Names that do not exist are yielded too, and fail when they are opened.
    """
    for argument in arguments:
        pattern = glob.has_magic(argument) and not os.path.exists(argument)
        matches = sorted(Path(name) for name in glob.glob(argument, recursive=True)) if pattern else []
        for path in matches or [Path(argument)]:
            inside = sorted(_files_below(path)) if os.path.isdir(path) else []
            yield from ((file, file.relative_to(path)) for file in inside)
            if not inside:
                yield path, Path(path.name)


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield files with an image's suffix, dangling links included, and unreadable folders.

    Hidden files and folders (macOS writes ._photo.jpg) and linked folders are ignored.
    """
    unreadable: list[Path] = []
    for place, folders, files in os.walk(folder, onerror=lambda error: unreadable.append(Path(error.filename))):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                yield Path(place, name)
    yield from unreadable


def folder_of(data: Path) -> Path:
    """Return the folder of a dataset given by its folder or by a file in it; COCO's files are in annotations/."""
    if not os.path.isfile(data):
        return data
    folder = data.absolute().parent
    return folder.parent if folder.name == "annotations" else data.parent


def lies_inside(folder: Path, file: str) -> bool:
    """Return whether a file name with / stays inside the folder, on every operating system."""
    path = posixpath.normpath(file)
    if posixpath.isabs(path) or path == ".." or path.startswith("../") or path[1:3] == ":/":
        return False
    # After a link, .. is relative to the link's target.
    return ".." not in file.split("/") or os.path.realpath(folder / file) == os.path.realpath(folder / path)


def is_web_address(path: Path) -> bool:
    """Return whether a path was a URL, whose two slashes `Path` merges."""
    return re.match(r"(https?|ftp|s3|gs):/", str(path)) is not None
