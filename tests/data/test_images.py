"""Image files of every kind, with colored corners that show rotations and crops."""

import contextlib
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import png, written
from PIL import Image

from detrcli.data.image_files import decode, read_header
from detrcli.data.images import MAX_PIXELS, open_image
from detrcli.errors import DataError

WIDTH, HEIGHT = 48, 32
# Upper left, upper right, lower left, lower right.
CORNERS = [(255, 0, 0), (0, 200, 0), (0, 0, 255), (250, 250, 0)]


def corners(colors: list[tuple[int, ...]], dtype: str = "uint8") -> np.ndarray:
    quarters = np.array(colors, dtype=dtype).reshape(2, 2, -1)
    return quarters.repeat(HEIGHT // 2, 0).repeat(WIDTH // 2, 1).squeeze()


def check_corners(path: Path, expected: list[tuple[int, ...]], tolerance: int = 0) -> None:
    """Compare the colors of the corners, four pixels inside."""
    image = open_image(path).image
    assert (image.mode, image.size) == ("RGB", (WIDTH, HEIGHT))
    x, y = WIDTH - 5, HEIGHT - 5
    colors = [image.getpixel(at) for at in ((4, 4), (x, 4), (4, y), (x, y))]
    assert np.abs(np.array(colors) - np.array(expected)).max() <= tolerance, colors


RGB = Image.fromarray(corners(CORNERS))
GRAY = [(10, 10, 10), (90, 90, 90), (170, 170, 170), (250, 250, 250)]
L = Image.fromarray(corners([(10,), (90,), (170,), (250,)]))


# Stored pixels as they are displayed, by the definition of each orientation; 6 and 8 undo each other.
TURNED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    undo = TURNED[{6: 8, 8: 6}.get(orientation, orientation)]
    stored = Image.fromarray(np.ascontiguousarray(undo(np.asarray(RGB))))
    stored.save(tmp_path / f"a.{suffix}", exif=exif, quality=95)
    check_corners(tmp_path / f"a.{suffix}", CORNERS, 40)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_a_rotated_tiff_is_exact(mode: str, compression: str | None, orientation: int, tmp_path: Path) -> None:
    """Pillow rotates TIFFs by itself, and some of them wrongly if it is given a path."""
    values = np.random.default_rng(0).integers(0, 256, (20, 50, 3), np.uint8)
    gray = Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    stored = gray if mode == "I;16" else Image.fromarray(values).convert(mode)
    plain, turned, exif = tmp_path / "plain.tif", tmp_path / "turned.tif", Image.Exif()
    exif[0x0112] = orientation
    stored.save(plain, compression=compression)
    stored.save(turned, compression=compression, exif=exif.tobytes())
    expected = TURNED[orientation](np.asarray(open_image(plain).image))
    np.testing.assert_array_equal(np.asarray(open_image(turned).image), expected)
    assert read_header(turned).displayed == expected.shape[:2]


WHITE, BLACK = (255, 255, 255), (0, 0, 0)
SIXTEEN = Image.fromarray(corners([(257 * gray,) for gray, *_ in GRAY], "uint16"))
ALPHA = Image.fromarray(corners([*((*color, 255) for color in CORNERS[:3]), (0, 0, 0, 0)]))
GRAY_ALPHA = Image.fromarray(corners([(10, 255), (90, 255), (170, 255), (0, 0)]))
PALETTE = RGB.quantize(4)
FULL: dict[str, Any] = {"quality": 95, "subsampling": 0}
LAST = {"transparency": PALETTE.getpixel((WIDTH - 1, HEIGHT - 1))}
KINDS: dict[str, tuple[Image.Image, dict[str, Any], list[tuple[int, ...]]]] = {
    **{f"a.{suffix}": (RGB, {}, CORNERS) for suffix in ("png", "bmp", "tif", "tiff", "gif", "webp")},
    "a.jpg": (RGB, FULL, CORNERS),
    "a.jpeg": (RGB, FULL, CORNERS),
    "malformed-exif.jpg": (RGB, {**FULL, "exif": b"Exif\x00\x00MM\x00*\xff\xff\xff\xff"}, CORNERS),
    "gray.png": (L, {}, GRAY),
    "gray.jpg": (L, {"quality": 100}, GRAY),
    "palette.png": (PALETTE, {}, CORNERS),
    "palette.gif": (PALETTE, {}, CORNERS),
    "cmyk.jpg": (RGB.convert("CMYK"), {"quality": 100}, CORNERS),
    "cmyk.tif": (RGB.convert("CMYK"), {}, CORNERS),
    "alpha.png": (ALPHA, {}, [*CORNERS[:3], WHITE]),
    "alpha.webp": (ALPHA, {}, [*CORNERS[:3], WHITE]),
    "palette-alpha.png": (PALETTE, LAST, [*CORNERS[:3], WHITE]),
    "gray-alpha.png": (GRAY_ALPHA, {}, [*GRAY[:3], WHITE]),
    "gray-key.png": (L, {"transparency": 250}, [*GRAY[:3], WHITE]),
    "16-bit.png": (SIXTEEN, {}, GRAY),
    "16-bit.tif": (SIXTEEN, {}, GRAY),
    "bilevel.png": (L.point(lambda value: 255 * (value > 128)).convert("1"), {}, [BLACK, BLACK, WHITE, WHITE]),
}


@pytest.mark.parametrize("name", KINDS)
def test_each_format_and_kind_of_pixels(tmp_path: Path, name: str) -> None:
    image, options, expected = KINDS[name]
    image.save(tmp_path / name, **options)
    check_corners(tmp_path / name, expected, {".webp": 40, ".jpg": 12, ".jpeg": 12}.get(Path(name).suffix, 0))


def rows_of(pixels: np.ndarray) -> bytes:
    return zlib.compress(b"".join(b"\x00" + row.tobytes() for row in pixels))


def test_16_bit_images_that_pillow_cannot_write(tmp_path: Path) -> None:
    """Colors are scaled; transparent gray is white."""
    pixels = corners([tuple(257 * v for v in color) for color in CORNERS], ">u2")
    check_corners(written(tmp_path / "a.png", png((WIDTH, HEIGHT), 16, 2, rows_of(pixels))), CORNERS)
    pixels = corners([(257 * gray,) for gray, *_ in GRAY], ">u2")
    transparent = b"tRNS" + struct.pack(">H", 10 * 257)
    file = written(tmp_path / "b.png", png((WIDTH, HEIGHT), 16, 0, rows_of(pixels), transparent))
    check_corners(file, [WHITE, *GRAY[1:]])


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_the_first_frame_is_read_with_a_note(tmp_path: Path, suffix: str) -> None:
    other = RGB.transpose(Image.Transpose.ROTATE_180)
    RGB.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[other, RGB], lossless=True)
    check_corners(tmp_path / f"a.{suffix}", CORNERS, 40)
    assert open_image(tmp_path / f"a.{suffix}").notes == ["only the first of its frames was read"]


def encoded(image: Image.Image, format: str) -> bytes:
    file = io.BytesIO()
    image.save(file, format)
    return file.getvalue()


JPEG = encoded(Image.effect_noise((200, 200), 50), "JPEG")
NOT_AN_IMAGE = "not a JPEG, PNG"


@pytest.mark.parametrize(
    ("name", "contents", "reason"),
    [
        ("a.jpg", JPEG[: len(JPEG) // 2], "cannot be decoded"),
        ("a.jpg", JPEG[:20], f"{NOT_AN_IMAGE}|cannot be decoded"),
        ("a.jpg", b"", NOT_AN_IMAGE),
        ("a.jpg", b"%PDF-1.4 and so on", NOT_AN_IMAGE),
        ("a.bin", b"text", NOT_AN_IMAGE),
        ("a.jpg", encoded(RGB, "PPM"), NOT_AN_IMAGE),
        ("a.jpg", encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "floating-point"),
        ("a.mp4", b"\0\0\0\x18ftypmp42 and so on", "it is a video"),
        ("a.MOV", b"\0\0\0\x18ftypmp42 and so on", "it is a video"),
    ],
    ids=["half", "header", "empty", "pdf", "text", "ppm", "float", "mp4", "mov"],
)
def test_unreadable_images_fail(tmp_path: Path, name: str, contents: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(DataError, match=reason):
        open_image(tmp_path / name)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    web = Path("https://example.org/a.jpg")
    for path, reason in (
        (tmp_path / "a.jpg", "no such file"),
        (tmp_path, "folder without images"),
        (web, "web address"),
    ):
        with pytest.raises(DataError, match=reason):
            open_image(path)
    (tmp_path / "b.PNG").touch()
    with pytest.raises(DataError, match=r"folder.*b\.PNG"):
        open_image(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_pipes_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="not a regular file"):
        open_image(tmp_path / "a.jpg")


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    """The file is a header without pixels, so decoding it would fail in another way."""
    bomb = written(tmp_path / "bomb.png", png((60_000, 60_000), 8, 2, b""))
    with pytest.raises(DataError, match="pixels"):
        open_image(bomb)
    assert "60000 x 60000 pixels" in str(read_header(bomb).problem)
    RGB.save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"48 x 32 pixels, more than the 1,535 allowed"):
        open_image(tmp_path / "a.png", max_pixels=48 * 32 - 1)
    assert open_image(tmp_path / "a.png", max_pixels=48 * 32).image.size == (48, 32)


@pytest.mark.parametrize(("suffix", "how"), [("png", {}), ("tif", {"compression": "group4"})])
@pytest.mark.slow
def test_images_beyond_the_limit_of_pillow(
    suffix: str, how: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More pixels than Pillow's limit and fewer than ours, in headers and in decoding."""
    width, height, path, before = 14_000, 13_500, tmp_path / f"a.{suffix}", 2**30 // 12
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", before)  # Pillow's default, which other packages change
    assert 2 * before < width * height < MAX_PIXELS
    Image.new("1", (width, height), 1).save(path, **how)
    assert read_header(path).displayed == (height, width)
    assert not isinstance(decode(path), str)
    assert before == Image.MAX_IMAGE_PIXELS


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    """A thousand files with some changed bytes, also in their EXIF, give an image or a DataError."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "words"
    rng = np.random.default_rng(0)
    for suffix in ("jpg", "png", "gif", "tif", "webp", "bmp"):
        RGB.save(tmp_path / f"a.{suffix}", **({"exif": exif} if suffix in ("jpg", "png", "tif", "webp") else {}))
        whole = (tmp_path / f"a.{suffix}").read_bytes()
        for _ in range(170):
            damaged = bytearray(whole)
            for place in rng.integers(0, min(len(whole), 400), rng.integers(1, 5)):
                damaged[place] = rng.integers(0, 256)
            (tmp_path / "b").write_bytes(damaged)
            with contextlib.suppress(DataError):
                assert open_image(tmp_path / "b", max_pixels=100_000).image.mode == "RGB"
