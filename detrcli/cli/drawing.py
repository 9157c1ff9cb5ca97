"""Annotated pictures, written behind the model's back."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from detrcli.cli.console import warn
from detrcli.cli.detections import Result
from detrcli.cli.maps import segments_of
from detrcli.cli.outputs import different
from detrcli.data.paths import ImagePath
from detrcli.inference.detector import ImageResult
from detrcli.render.draw import draw_detections, draw_map, save
from detrcli.system.files import next_free_folder
from detrcli.system.prefetch import prefetch

DEFAULT_OUT = "predictions"
JPEG = frozenset({".jpg", ".jpeg", ".jpe", ".jfif"})


def places(named: Sequence[ImagePath]) -> list[Path]:
    """The name of each annotated picture below the output folder.

    JPEG stays what it is; everything else becomes PNG, which loses nothing.
    """
    return different(
        item.relative if item.relative.suffix.lower() in JPEG else item.relative.with_suffix(".png") for item in named
    )


def drawn(named: Sequence[tuple[ImagePath, Path]], stream: Iterable[ImageResult], out: Path | None) -> Iterator[Result]:
    """The result of each picture, in order, while the annotated ones are drawn in other threads under their names."""
    with ThreadPoolExecutor(2) as pool:
        yield from prefetch(pool, _draw, _placed(named, stream, out), depth=6)


def _placed(
    named: Sequence[tuple[ImagePath, Path]], stream: Iterable[ImageResult], out: Path | None
) -> Iterator[tuple[ImagePath, ImageResult, Path | None]]:
    for (item, place), seen in zip(named, stream, strict=True):
        if seen.image is None:
            yield item, seen, None
            continue
        if out is None:
            out = next_free_folder(DEFAULT_OUT)
            warn(f"annotated pictures go to {out}")
        yield item, seen, out / place


def _draw(work: tuple[ImagePath, ImageResult, Path | None]) -> Result:
    item, seen, path = work
    if path and seen.image and seen.map is not None:
        save(draw_map(seen.image, seen.map), path)
    elif path and seen.image and seen.detections is not None:
        save(draw_detections(seen.image, seen.detections), path)
    height, width = seen.size or (0, 0)
    segments = None if seen.map is None else segments_of(seen.map)
    return Result(str(item.path), width, height, seen.detections, seen.notes, seen.problem, segments)
