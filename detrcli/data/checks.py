"""What is wrong with a data set, said before it costs a night; and what of it can be used all the same."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from detrcli.data.headers import Header, read_headers
from detrcli.data.images import UPRIGHT
from detrcli.data.place import lies_inside
from detrcli.data.raw_annotations import NO_ID, Problem, RawAnnotations
from detrcli.structures import Classes

Exif = Literal["auto", "apply", "ignore"]

ROUNDING = 1.0  # pixels that a box may reach beyond its picture before that is worth a word

# Errors that --skip-bad turns into leaving the entry out.
SKIPPABLE = frozenset(
    {
        "missing-picture", "bad-picture", "size-mismatch", "unknown-image", "unknown-category", "bad-box",
        "missing-map", "bad-map", "segment-twice", "missing-segment", "mask-size", "bad-mask",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Split:
    """A split with what the check says of each of its entries."""

    written: RawAnnotations
    problems: Sequence[Problem]
    usable_images: np.ndarray  # (I,) bool
    usable: np.ndarray  # (N,) bool, annotations that a box can be taken from
    sizes: np.ndarray  # (I, 2) int64, height and width as the picture will be loaded
    turned: np.ndarray  # (I,) bool, whether EXIF orientation is applied on loading


class _SplitChecker:
    """Gathers the problems of one split."""

    def __init__(self, name: str, written: RawAnnotations) -> None:
        self.name, self.written = name, written
        self.problems: list[Problem] = list(written.problems)

    def error(self, kind: str, where: str, what: str) -> None:
        self.problems.append(Problem("error", kind, self.name, where, what))

    def warning(self, kind: str, where: str, what: str) -> None:
        self.problems.append(Problem("warning", kind, self.name, where, what))


def check_split(name: str, written: RawAnnotations, exif: Exif = "auto", *, pictures: bool = True) -> Split:
    """Everything that can be said of one split by itself, with the headers of its pictures.

    Without `pictures` they need not be there: only one whose size is not written down is looked at.
    """
    split = _SplitChecker(name, written)
    _check_ids(split)
    written = split.written
    inside = _check_paths(split)
    sizes = written.sizes.tolist()
    looked_at = [i for i in np.flatnonzero(inside).tolist() if pictures or not all(sizes[i])]
    headers = read_headers(written.folder, [written.files[i] for i in looked_at])
    here = [Header(width, height) for height, width in sizes]
    for i, header in zip(looked_at, headers, strict=True):
        here[i] = header
    usable_images, sizes, turned = _check_pictures(split, here, inside, exif)
    _check_maps(split, usable_images, sizes)
    usable = _check_annotations(split, usable_images, sizes)
    return Split(written, split.problems, usable_images, usable, sizes, turned)


def _check_ids(split: _SplitChecker) -> None:
    w = split.written
    for what, ids in (("image", w.image_ids), ("category", w.category_ids)):
        for repeated in _repeated(ids):
            split.error("duplicate-id", f"{what} {repeated}", f"{what} id {repeated} is given more than once")
    for repeated in _repeated(w.annotation_ids):
        split.warning("duplicate-annotation-id", f"annotation {repeated}", "given more than once; renumbered")
    if w.maps is not None:
        named = np.stack([w.of_image, w.maps.segment_ids], axis=1)  # (N, 2)
        _, first = np.unique(named, axis=0, return_index=True)
        again = np.ones(len(named), dtype=bool)
        again[first] = False
        for i in np.flatnonzero(again).tolist():
            what = "its id is given more than once, so that segments overlap"
            split.error("segment-twice", annotation_named(w, i), what)
        split.written = w.with_annotations(~again)


def _repeated(ids: np.ndarray) -> list[int]:
    unique, counts = np.unique(ids, return_counts=True)
    return unique[counts > 1].tolist()


def _check_paths(split: _SplitChecker) -> np.ndarray:
    inside = np.ones(len(split.written.files), dtype=bool)
    for i, file in enumerate(split.written.files):
        if not lies_inside(split.written.folder, file):
            inside[i] = False
            split.error("leaves-folder", _image(split, i), f"its file {file} lies outside {split.written.folder}")
    return inside


def _check_pictures(
    split: _SplitChecker, headers: Sequence[Header], inside: np.ndarray, exif: Exif
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    usable = inside.copy()
    sizes = np.zeros((len(headers), 2), dtype=np.int64)
    turned = np.ones(len(headers), dtype=bool)
    both_fit = []
    for i, (header, said) in enumerate(zip(headers, split.written.sizes.tolist(), strict=True)):
        if not inside[i]:
            continue
        where, file = _image(split, i), split.written.files[i]
        if header.problem is not None:
            missing = header.problem == "there is no such file"
            split.error("missing-picture" if missing else "bad-picture", where, f"{file}: {header.problem}")
            usable[i] = False
            continue
        written = tuple(said) if all(said) else None
        if exif == "ignore":
            turned[i] = False
        elif exif == "auto" and written == header.stored != header.displayed:
            turned[i] = False
            split.warning(
                "unturned-size",
                where,
                f"{file}: EXIF turns it, its annotated size is the unturned one; loaded unturned",
            )
        elif exif == "auto" and header.orientation != UPRIGHT and (not written or header.stored == header.displayed):
            both_fit.append(file)
        sizes[i] = header.displayed if turned[i] else header.stored
        if written and written != tuple(sizes[i].tolist()):
            usable[i] = False
            (h, w), (rows, columns) = written, header.displayed
            split.error("size-mismatch", where, f"{file} is {columns} x {rows}, annotated as {w} x {h}")
    if both_fit:
        split.warning(
            "turned",
            both_fit[0],
            f"EXIF turns {len(both_fit)} pictures, and their annotated size does not tell whether their boxes are "
            "meant before or after that; it is applied",
        )
    return usable, sizes, turned


def _check_maps(split: _SplitChecker, usable: np.ndarray, sizes: np.ndarray) -> None:
    """Panoptic maps by their headers: pictures without one that fits are not usable."""
    maps, written = split.written.maps, split.written
    if maps is None:
        return
    looked_at: list[tuple[int, str]] = []
    for i in np.flatnonzero(usable).tolist():
        file = maps.files.get(int(written.image_ids[i]))
        if file is not None and lies_inside(maps.folder, file):
            looked_at.append((i, file))
            continue
        usable[i] = False
        if file is None:
            split.error("missing-map", _image(split, i), "the file names no map of it")
        else:
            split.error("leaves-folder", _image(split, i), f"its map {file} lies outside {maps.folder}")
    headers = read_headers(maps.folder, [file for _, file in looked_at])
    for (i, file), header in zip(looked_at, headers, strict=True):
        (height, width), (rows, columns) = sizes[i].tolist(), header.stored
        if header.problem is not None:
            missing = header.problem == "there is no such file"
            what = f"its map {maps.folder / file}: {header.problem}"
            split.error("missing-map" if missing else "bad-map", _image(split, i), what)
        elif (rows, columns) != (height, width):
            what = f"its map {file} is {columns} x {rows}, the picture {width} x {height}"
            split.error("mask-size", _image(split, i), what)
        usable[i] &= header.problem is None and (rows, columns) == (height, width)


def _check_annotations(split: _SplitChecker, usable_images: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Which annotations give a box. Those of pictures that are not usable are passed over in silence."""
    w = split.written
    order = np.argsort(w.image_ids, kind="stable")
    place = order[np.searchsorted(w.image_ids, w.of_image, sorter=order).clip(max=len(order) - 1)]  # (N,)
    known_image = w.image_ids[place] == w.of_image
    known_category = np.isin(w.of_category, w.category_ids)
    is_box = np.isfinite(w.boxes).all(1)
    for i in np.flatnonzero(~known_image).tolist():
        split.error("unknown-image", _annotation(split, i), f"there is no image {_id(w.of_image[i])}")
    for i in np.flatnonzero(~known_category).tolist():
        split.error("unknown-category", _annotation(split, i), f"there is no category {_id(w.of_category[i])}")
    for i in np.flatnonzero(~is_box).tolist():
        split.error("bad-box", _annotation(split, i), "its box is not four finite numbers")

    usable = known_image & known_category & is_box & usable_images[place]
    height, width = sizes[place].T
    x0, y0, a, b = np.where(usable[:, None], w.boxes, 0).T
    x1, y1 = x0 + a, y0 + b

    as_corners = (a > x0) & (b > y0) & (a <= width + ROUNDING) & (b <= height + ROUNDING)
    outside = usable & ((x0 < -ROUNDING) | (y0 < -ROUNDING) | (x1 > width + ROUNDING) | (y1 > height + ROUNDING))
    # A few boxes, or a flat one among many, decide nothing.
    enough = usable.sum() >= 4 and as_corners[usable].mean() >= 0.85
    if enough and outside.sum() >= 0.25 * usable.sum():
        first = int(np.flatnonzero(outside)[0])
        split.error(
            "corners",
            _annotation(split, first),
            f"the boxes look like corners x0, y0, x1, y1, where x, y, width, height belong: {outside.sum()} of "
            f"{usable.sum()} reach out of their pictures, and as corners they would fit",
        )
        return usable
    empty = usable & ((np.minimum(x1, width) <= np.maximum(x0, 0)) | (np.minimum(y1, height) <= np.maximum(y0, 0)))
    for i in np.flatnonzero(empty).tolist():
        split.warning("empty-box", _annotation(split, i), "no width or height is left inside the picture; left out")
    for i in np.flatnonzero(outside & ~empty).tolist():
        split.warning("box-outside", _annotation(split, i), "reaches out of its picture; clipped in training")
    return usable & ~empty


def _id(value: int) -> str:
    return "without an id, and it names none" if value == NO_ID else str(value)


def _image(split: _SplitChecker, i: int) -> str:
    return f"image {split.written.image_ids[i]}"


def _annotation(split: _SplitChecker, i: int) -> str:
    return annotation_named(split.written, i)


def annotation_named(written: RawAnnotations, i: int) -> str:
    """How a user finds it: by its id, or by that in its picture where it is a segment."""
    if written.maps is None:
        return f"annotation {written.annotation_ids[i]}"
    return f"segment {written.maps.segment_ids[i]} of image {written.of_image[i]}"


def check_together(splits: Mapping[str, Split]) -> Iterator[Problem]:
    """What shows only when the splits are seen side by side."""
    train, others = splits.get("train"), {name: split for name, split in splits.items() if name != "train"}
    if train is not None:
        if not (train.usable & ~train.written.crowd).any():
            yield Problem("error", "no-boxes", "train", "train", "there is no box to learn from")
        for name, split in others.items():
            for missing in sorted(_classes_with_boxes(split) - _classes_with_boxes(train)):
                what = f"class {missing!r} has boxes here and none in train"
                yield Problem("warning", "class-not-in-train", name, f"class {missing}", what)
    yield from _parents(splits)
    yield from _conflicts(splits)
    yield from _names_twice(splits)
    yield from _same_pictures(splits)


def _classes_with_boxes(split: Split) -> set[str]:
    w = split.written
    used = set(w.of_category[split.usable].tolist())
    return {name for i, name in zip(w.category_ids.tolist(), w.names, strict=True) if i in used}


def parents_without_boxes(splits: Mapping[str, Split]) -> dict[int, str]:
    """Categories that only stand above others, as Roboflow writes one of; it may have the name of one below it."""
    named = {
        i: (name, parent)
        for split in splits.values()
        for i, name, parent in zip(
            split.written.category_ids.tolist(), split.written.names, split.written.parents, strict=True
        )
    }
    used = {i for split in splits.values() for i in split.written.of_category[split.usable].tolist()}
    below = Counter(parent for name, parent in named.values() if parent != name)
    own = Counter(name for name, parent in named.values() if parent == name)
    return {
        i: name for i, (name, parent) in named.items() if i not in used and below[name] + own[name] > (parent == name)
    }


def classes_without(splits: Mapping[str, Split], left_out: Collection[int]) -> Classes:
    """The classes of these splits by rising id, without some categories. Where all are things, nobody says so."""
    named: dict[int, str] = {}
    stuff: set[int] = set()
    for split in splits.values():
        w = split.written
        for category, name, thing in zip(
            w.category_ids.tolist(), w.names, w.things or [True] * len(w.names), strict=True
        ):
            if category not in left_out:
                named[category] = name
                stuff |= set() if thing else {category}
    ids = sorted(named)
    return Classes(
        ids=np.array(ids, dtype=np.int64),
        names=np.array([named[i] for i in ids], dtype=np.str_),
        things=np.array([i not in stuff for i in ids]) if stuff else None,
    )


def _parents(splits: Mapping[str, Split]) -> Iterator[Problem]:
    for name in parents_without_boxes(splits).values():
        what = f"class {name!r} only stands above others and has no boxes; left out"
        yield Problem("warning", "parent-class", None, f"class {name}", what)


def _conflicts(splits: Mapping[str, Split]) -> Iterator[Problem]:
    first: dict[int, tuple[str, str]] = {}
    for split_name, split in splits.items():
        for i, name in zip(split.written.category_ids.tolist(), split.written.names, strict=True):
            there, called = first.setdefault(i, (split_name, name))
            if called != name:
                what = f"called {name!r} here and {called!r} in {there}"
                yield Problem("error", "category-conflict", split_name, f"category {i}", what)


def _names_twice(splits: Mapping[str, Split]) -> Iterator[Problem]:
    ids: dict[str, set[int]] = defaultdict(set)
    left_out = parents_without_boxes(splits)
    for split in splits.values():
        for i, name in zip(split.written.category_ids.tolist(), split.written.names, strict=True):
            if i not in left_out:
                ids[name].add(i)
    for name, several in sorted(ids.items()):
        if len(several) > 1:
            what = f"{name!r} has the ids {', '.join(map(str, sorted(several)))}; taken for different classes"
            yield Problem("warning", "name-twice", None, f"class {name}", what)


def _same_pictures(splits: Mapping[str, Split]) -> Iterator[Problem]:
    """Files that are equal byte for byte; only those of equal length are read."""
    by_length: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for name, split in splits.items():
        for i in np.flatnonzero(split.usable_images).tolist():
            by_length[(split.written.folder / split.written.files[i]).stat().st_size].append((name, i))
    for entries in by_length.values():
        if len({name for name, _ in entries}) < 2:
            continue
        first: dict[str, tuple[str, str]] = {}
        for name, i in entries:
            file = splits[name].written.files[i]
            with (splits[name].written.folder / file).open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            there, other = first.setdefault(digest, (name, file))
            if there != name:
                yield Problem("warning", "same-picture", name, file, f"the same picture as {other} in {there}")


def skip_bad(problems: Sequence[Problem]) -> list[Problem]:
    """The problems as --skip-bad sees them: what can be left out is, with a warning."""
    return [
        Problem("warning", p.kind, p.split, p.where, f"{p.what}; left out")
        if p.severity == "error" and p.kind in SKIPPABLE
        else p
        for p in problems
    ]
