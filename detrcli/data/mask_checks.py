"""What is wrong with the masks of a split. They are looked at picture by picture, and none outlives its picture."""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from detrcli.data.checks import Split, annotation_named
from detrcli.data.decode import PATIENCE
from detrcli.data.maps import NOBODY, read_map
from detrcli.data.outlines import WRONG, lengths_of, mask_of, size_of
from detrcli.data.raw_annotations import Problem
from detrcli.errors import DataError
from detrcli.run_lengths import box_around, extent

ROUNDING = 2.0  # pixels that a mask may reach out of its box: a polygon's corners lie between pixels
OVERLAP = 0.01  # of the pixels of a picture that segments may share before that is worth a word


@dataclass(frozen=True)
class _Look:
    """What a picture's masks are."""

    problems: Sequence[Problem] = ()
    left_out: Sequence[int] = ()  # places of annotations
    broken: bool = False  # whether the picture is of no use without its map
    nobody: int = 0  # pixels of no segment


def check_masks(name: str, split: Split, *, full: bool, advance: Callable[[], None] = lambda: None) -> Split | None:
    """The split with the problems of its masks, without annotations and images whose mask or map cannot be read.

    None where all of that would take too long and `full` does not ask for it.
    """
    w = split.written
    if w.outlines is None:
        return split
    texts: dict[int, bytes] = {}
    if w.maps is None:
        objects = np.flatnonzero(split.usable)
        texts = dict(zip(objects.tolist(), w.outlines.part(objects).texts(), strict=True))
    of_image: dict[int, list[int]] = defaultdict(list)
    for place, image in enumerate(w.of_image.tolist()):
        of_image[image].append(place)
    images = np.flatnonzero(split.usable_images).tolist()

    def look(i: int) -> _Look:
        own = of_image.get(int(w.image_ids[i]), [])
        advance()
        return _of_map(name, split, i, own) if w.maps else _of_outlines(name, split, i, own, texts)

    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        if not full:  # maps are decoded in parallel, polygons one after the other
            sample = images[:: max(1, len(images) // (8 * workers))]
            start = time.perf_counter()
            list(pool.map(look, sample))
            if (time.perf_counter() - start) / max(len(sample), 1) * len(images) > PATIENCE:
                return None
        looks = list(pool.map(look, images))

    problems = [problem for found in looks for problem in found.problems]
    without = [place for place, text in texts.items() if not text and not w.crowd[place]]
    if without and len(without) < len(texts):
        what = f"{len(without):,} of {len(texts):,} objects have no mask, so masks are neither learned nor measured"
        problems.append(Problem("warning", "no-mask", name, annotation_named(w, without[0]), what))
    problems += _of_nobody(name, split, images, looks)
    usable_images = split.usable_images.copy()
    usable_images[[i for i, found in zip(images, looks, strict=True) if found.broken]] = False
    stays = np.ones(len(w.annotation_ids), dtype=bool)
    stays[[place for found in looks for place in found.left_out]] = False
    usable = split.usable & np.isin(w.of_image, w.image_ids[usable_images])
    return replace(
        split,
        written=w.with_annotations(stays),
        problems=[*split.problems, *problems],
        usable_images=usable_images,
        usable=usable[stays],
    )


def _of_nobody(name: str, split: Split, images: Sequence[int], looks: Sequence[_Look]) -> Sequence[Problem]:
    """One word of all pixels that belong to no segment, where the data means to say something of each."""
    some = [i for i, found in zip(images, looks, strict=True) if found.nobody]
    if not some:
        return []
    share = sum(found.nobody for found in looks) / int(split.sizes[images].prod(1).sum())
    what = (
        f"in {len(some):,} of {len(images):,} pictures pixels belong to no segment, {share:.1%} of all; nothing is "
        "learned or counted there"
    )
    return [Problem("warning", "unclaimed", name, f"image {split.written.image_ids[some[0]]}", what)]


def _of_map(name: str, split: Split, i: int, own: Sequence[int]) -> _Look:
    """A picture's map beside its segments, which are known by their places."""
    w, (height, width) = split.written, split.sizes[i].tolist()
    assert w.maps is not None
    image = int(w.image_ids[i])
    where = f"image {image}"
    try:
        ids = read_map(w.maps.folder / w.maps.files[image], height, width)  # (H, W)
    except DataError as error:
        return _Look([Problem("error", "bad-map", name, where, str(error))], broken=True)
    drawn = Counter(dict(zip(*(one.tolist() for one in np.unique(ids, return_counts=True)), strict=True)))
    listed = w.maps.segment_ids[own].tolist()
    strangers = drawn.keys() - set(listed)
    problems: list[Problem] = []
    left_out: list[int] = []
    for unknown in sorted(strangers - {NOBODY}):
        what = f"{drawn[unknown]:,} pixels of its map are of segment {unknown}, which is not listed; nobody has them"
        problems.append(Problem("warning", "unknown-segment", name, where, what))
    for place, segment in zip(own, listed, strict=True):
        if not split.usable[place]:
            continue
        if not drawn[segment]:
            what = "no pixel of the map has its colour"
            problems.append(Problem("error", "missing-segment", name, annotation_named(w, place), what))
            left_out.append(place)
            continue
        x, y, across, down = box_around(ids == segment)
        problems += _outside(name, split, place, (x, y, x + across, y + down))
    return _Look(problems, left_out, nobody=sum(drawn[one] for one in strangers))


def _of_outlines(name: str, split: Split, i: int, own: Sequence[int], texts: dict[int, bytes]) -> _Look:
    """The polygons and run lengths of a picture, whose annotations are known by their places."""
    w, (height, width) = split.written, split.sizes[i].tolist()
    problems: list[Problem] = []
    left_out: list[int] = []
    # Where stuff is told too, segments share out the picture.
    shares_out = w.things is not None and not all(w.things)
    claimed = np.zeros((height, width), dtype=bool) if shares_out else None
    shared = 0
    for place in own:
        text, where = texts.get(place), annotation_named(w, place)
        if not text:
            continue
        try:
            segmentation = msgspec.json.decode(text)
            rows, columns = size_of(segmentation, height, width)
            if (rows, columns) != (height, width):
                what = f"its mask is {columns} x {rows}, the picture {width} x {height}"
                problems.append(Problem("error", "mask-size", name, where, what))
                left_out.append(place)
                continue
            area, around = extent(lengths_of(segmentation, height, width), height)
        except (*WRONG, MemoryError):
            what = "its segmentation is neither polygons nor run lengths"
            problems.append(Problem("error", "bad-mask", name, where, what))
            left_out.append(place)
            continue
        if isinstance(segmentation, list) and (flat := sum(len(polygon) < 6 for polygon in segmentation)):
            what = f"{flat} of its {len(segmentation)} polygons have fewer than three corners; they enclose nothing"
            problems.append(Problem("warning", "flat-polygon", name, where, what))
        if not area:
            what = "there is no pixel in its mask; the object counts all the same"
            problems.append(Problem("warning", "empty-mask", name, where, what))
            continue
        problems += _outside(name, split, place, around)
        if claimed is not None:
            mask = mask_of(text, height, width)
            shared += 0 if w.crowd[place] else int(np.count_nonzero(claimed & mask))
            claimed |= mask
    if shared > OVERLAP * height * width:
        what = f"{shared:,} pixels belong to more than one segment, where stuff and things share out the picture"
        problems.append(Problem("warning", "overlap", name, f"image {w.image_ids[i]}", what))
    nobody = 0 if claimed is None else int(np.count_nonzero(~claimed))
    return _Look(problems, left_out, nobody=nobody)


def _outside(name: str, split: Split, place: int, around: tuple[int, int, int, int]) -> Sequence[Problem]:
    """Whether a mask, which lies within these corners, reaches out of its box."""
    x, y, width, height = split.written.boxes[place].tolist()
    x0, y0, x1, y1 = around
    beyond = max(x - x0, y - y0, x1 - (x + width), y1 - (y + height))
    if beyond <= ROUNDING:
        return []
    what = f"its mask reaches {beyond:.0f} pixels out of its box; both are taken as they are"
    return [Problem("warning", "mask-outside", name, annotation_named(split.written, place), what)]
