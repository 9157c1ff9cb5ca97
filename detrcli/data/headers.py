"""What pictures say of themselves before they are decoded, remembered from run to run."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import msgspec
from PIL import ExifTags, UnidentifiedImageError

from detrcli.data.images import FORMATS, UPRIGHT, opened
from detrcli.system.files import cache_folder, write_whole

SIDEWAYS = frozenset({5, 6, 7, 8})  # the EXIF orientations that exchange width and height


class Header(msgspec.Struct, frozen=True, array_like=True):
    """Width and height as stored, and how the picture is to be turned; or why it cannot be read."""

    width: int = 0
    height: int = 0
    orientation: int = UPRIGHT
    problem: str | None = None

    @property
    def stored(self) -> tuple[int, int]:
        """Height and width as stored."""
        return self.height, self.width

    @property
    def displayed(self) -> tuple[int, int]:
        """Height and width once it is turned."""
        return self.stored[::-1] if self.orientation in SIDEWAYS else self.stored


def read_header(path: Path) -> Header:
    """The header of one file."""
    try:
        with opened(path) as image:
            try:
                orientation = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
            except Exception:  # a damaged EXIF says nothing
                orientation = UPRIGHT
            # Pillow turns a TIFF by itself, and its size is that of the turned picture.
            known = orientation in range(1, 9) and image.format != "TIFF"
            return Header(image.width, image.height, orientation if known else UPRIGHT)
    except FileNotFoundError:
        return Header(problem="there is no such file")
    except UnidentifiedImageError:
        return Header(problem=f"it is none of {', '.join(FORMATS)}")
    except Exception as error:  # there is nothing that Pillow does not raise for a broken file
        return Header(problem=str(error) or type(error).__name__)


class _Remembered(msgspec.Struct, array_like=True):
    size: int
    time: int
    header: Header


def read_headers(folder: Path, files: Sequence[str]) -> list[Header]:
    """The headers of files below a folder: those that have not changed from memory, the others in parallel."""
    memory = cache_folder() / "headers" / f"{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:24]}.msgpack"
    try:
        known = msgspec.msgpack.decode(memory.read_bytes(), type=dict[str, _Remembered])
    except (OSError, msgspec.MsgspecError):
        known = {}

    def look(file: str) -> _Remembered:
        path = folder / file
        try:
            found = path.stat()
        except (OSError, ValueError):
            return _Remembered(-1, -1, Header(problem="there is no such file"))
        entry = known.get(file)
        if entry and (entry.size, entry.time) == (found.st_size, found.st_mtime_ns):
            return entry
        return _Remembered(found.st_size, found.st_mtime_ns, read_header(path))

    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        seen = list(pool.map(look, files, chunksize=64))
    # What is wrong with a file may pass without a change of it, so that is looked at anew.
    now = {file: entry for file, entry in zip(files, seen, strict=True) if entry.header.problem is None}
    if any(known.get(file) != entry for file, entry in now.items()):
        _remember(memory, known | now)
    return [entry.header for entry in seen]


def _remember(memory: Path, entries: dict[str, _Remembered]) -> None:
    # It is a convenience: a machine without a place for it reads the headers each time.
    with suppress(OSError, UnicodeEncodeError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_whole(memory, msgspec.msgpack.encode(entries))
