"""Annotated pictures, written behind the model's back."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from detrcli.cli.console import warn
from detrcli.cli.detections import Result
from detrcli.cli.outputs import Names, next_free_folder
from detrcli.data.collect import Named
from detrcli.detector import Seen, ahead
from detrcli.draw import annotate, save

DEFAULT_OUT = "predictions"
JPEG = frozenset({".jpg", ".jpeg", ".jpe", ".jfif"})


def drawn(
    named: Sequence[Named], stream: Iterable[Seen], out: Path | None, *, draw: bool
) -> Iterator[Result]:
    """The result of each picture, in order, while the annotated ones are drawn and written in other threads."""
    with ThreadPoolExecutor(2) as pool:
        yield from ahead(pool, _draw, _placed(named, stream, out, draw=draw), depth=6)


def _placed(
    named: Sequence[Named], stream: Iterable[Seen], out: Path | None, *, draw: bool
) -> Iterator[tuple[Named, Seen, Path | None]]:
    names = Names(item.path for item in named)
    for item, seen in zip(named, stream, strict=True):
        path = None
        if draw and seen.detections is not None:
            if out is None:
                out = next_free_folder(DEFAULT_OUT)
                warn(f"annotated pictures go to {out}")
            # JPEG stays what it is; everything else becomes PNG, which loses nothing.
            suffix = item.below.suffix if item.below.suffix.lower() in JPEG else ".png"
            path = names.give(out, item.below.with_suffix(suffix))
        yield item, seen, path


def _draw(work: tuple[Named, Seen, Path | None]) -> Result:
    item, seen, path = work
    if seen.image is None or seen.detections is None:
        return Result(str(item.path), 0, 0, None, seen.notes, seen.problem)
    if path:
        save(annotate(seen.image, seen.detections), path)
    return Result(str(item.path), *seen.image.size, seen.detections, seen.notes, None)
