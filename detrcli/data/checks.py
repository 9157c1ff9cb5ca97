"""Checks of the splits of a dataset: which of their images and annotations can be used, and why others cannot."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np

from detrcli.data.image_files import Header, read_headers
from detrcli.data.images import MISSING, UPRIGHT, lies_inside
from detrcli.data.raw_annotations import NO_ID, Problem, Problems, RawAnnotations
from detrcli.structures import Classes

Exif = Literal["auto", "apply", "ignore"]

TOLERANCE = 1.0  # pixels that a box may exceed its image by, for rounding

# Errors that become warnings with `skip_bad`, which leaves the entry out.
SKIPPABLE = frozenset(
    {
        "missing-picture", "bad-picture", "size-mismatch", "unknown-image", "unknown-category", "bad-box",
        "missing-map", "bad-map", "segment-twice", "missing-segment", "mask-size", "bad-mask",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Split:
    """A checked split: its annotations, their problems, and what can be used."""

    written: RawAnnotations
    problems: Sequence[Problem]
    usable_images: np.ndarray  # (I,) bool
    usable: np.ndarray  # (N,) bool, annotations with a box to train on
    sizes: np.ndarray  # (I, 2) int64, height and width of the images as they are loaded
    turned: np.ndarray  # (I,) bool, whether EXIF orientation is applied on loading

    def without_images(self, images: Sequence[int]) -> Self:
        """Return the split with further unusable images, given by their indices."""
        usable_images = self.usable_images.copy()
        usable_images[images] = False
        left_out = np.isin(self.written.of_image, self.written.image_ids[images])
        return replace(self, usable_images=usable_images, usable=self.usable & ~left_out)


def check_split(name: str, written: RawAnnotations, exif: Exif = "auto", *, images: bool = True) -> Split:
    """Check a split by itself, reading the headers of its images.

    Without `images` the image files need not exist: only those of unknown size are read.
    """
    problems = Problems(name, written.problems)
    w = _check_ids(written, problems)
    inside = np.array([lies_inside(w.folder, file) for file in w.files], dtype=bool)
    for i in np.flatnonzero(~inside).tolist():
        problems.error("leaves-folder", w.name_of_image(i), f"its file {w.files[i]} lies outside {w.folder}")
    written_sizes = w.sizes.tolist()
    to_read = [i for i in np.flatnonzero(inside).tolist() if images or not all(written_sizes[i])]
    headers = [Header(width, height) for height, width in written_sizes]
    for i, header in zip(to_read, read_headers(w.folder, [w.files[i] for i in to_read]), strict=True):
        headers[i] = header
    usable_images, sizes, turned = _check_images(w, headers, inside, exif, problems)
    _check_maps(w, usable_images, sizes, problems)
    usable = _check_annotations(w, usable_images, sizes, problems)
    return Split(w, problems, usable_images, usable, sizes, turned)


def _check_ids(w: RawAnnotations, problems: Problems) -> RawAnnotations:
    """Check that ids are unique; repeated segments are left out."""
    for what, ids in (("image", w.image_ids), ("category", w.category_ids)):
        for repeated in _repeated(ids):
            problems.error("duplicate-id", f"{what} {repeated}", f"{what} id {repeated} is given more than once")
    for repeated in _repeated(w.annotation_ids):
        problems.warning("duplicate-annotation-id", f"annotation {repeated}", "given more than once; renumbered")
    if w.maps is None:
        return w
    named = np.stack([w.of_image, w.maps.segment_ids], axis=1)  # (N, 2)
    _, first = np.unique(named, axis=0, return_index=True)
    again = np.ones(len(named), dtype=bool)
    again[first] = False
    for i in np.flatnonzero(again).tolist():
        problems.error("segment-twice", w.name_of(i), "its id is given more than once, so that segments overlap")
    return w.part(~again)


def _repeated(ids: np.ndarray) -> list[int]:
    unique, counts = np.unique(ids, return_counts=True)
    return unique[counts > 1].tolist()


def _check_images(
    w: RawAnnotations, headers: Sequence[Header], inside: np.ndarray, exif: Exif, problems: Problems
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which images are usable (I,), their sizes (I, 2) and whether EXIF is applied (I,)."""
    usable = inside.copy()
    sizes = np.zeros((len(headers), 2), dtype=np.int64)
    turned = np.ones(len(headers), dtype=bool)
    ambiguous = []
    for i in np.flatnonzero(inside).tolist():
        header, where, file = headers[i], w.name_of_image(i), w.files[i]
        if header.problem is not None:
            missing = header.problem == MISSING
            problems.error("missing-picture" if missing else "bad-picture", where, f"{file}: {header.problem}")
            usable[i] = False
            continue
        annotated = tuple(w.sizes[i].tolist())
        known = all(annotated)
        if exif == "ignore":
            turned[i] = False
        elif exif == "auto" and known and annotated == header.stored != header.displayed:
            turned[i] = False
            what = f"{file}: its annotated size is that before EXIF orientation, which is therefore not applied"
            problems.warning("unturned-size", where, what)
        elif exif == "auto" and header.orientation != UPRIGHT and (not known or header.stored == header.displayed):
            ambiguous.append(file)
        sizes[i] = header.displayed if turned[i] else header.stored
        if known and annotated != tuple(sizes[i].tolist()):
            usable[i] = False
            (height, width), (rows, columns) = annotated, header.displayed
            problems.error("size-mismatch", where, f"{file} is {columns} x {rows}, annotated as {width} x {height}")
    if ambiguous:
        what = (
            f"{len(ambiguous)} images have an EXIF orientation, and their annotated size does not tell whether "
            "their boxes refer to the rotated image; the orientation is applied"
        )
        problems.warning("turned", ambiguous[0], what)
    return usable, sizes, turned


def _check_maps(w: RawAnnotations, usable: np.ndarray, sizes: np.ndarray, problems: Problems) -> None:
    """Check panoptic maps by their headers; images without a fitting map become unusable, in place."""
    if w.maps is None:
        return
    folder, files = w.maps.folder, {}  # maps to read, by image index
    for i in np.flatnonzero(usable).tolist():
        file = w.maps.files.get(int(w.image_ids[i]))
        if file is None:
            problems.error("missing-map", w.name_of_image(i), "the annotation file names no map for it")
        elif not lies_inside(folder, file):
            problems.error("leaves-folder", w.name_of_image(i), f"its map {file} lies outside {folder}")
        else:
            files[i] = file
    usable[:] = False
    for (i, file), header in zip(files.items(), read_headers(folder, list(files.values())), strict=True):
        height, width = sizes[i].tolist()
        if header.problem is not None:
            what = f"its map {folder / file}: {header.problem}"
            problems.error("missing-map" if header.problem == MISSING else "bad-map", w.name_of_image(i), what)
        elif header.stored != (height, width):
            what = f"its map {file} is {header.width} x {header.height}, the image {width} x {height}"
            problems.error("mask-size", w.name_of_image(i), what)
        else:
            usable[i] = True


def _check_annotations(
    w: RawAnnotations, usable_images: np.ndarray, sizes: np.ndarray, problems: Problems
) -> np.ndarray:
    """Return which annotations are usable, (N,) bool. Those of unusable images are not reported."""
    place = w.image_index()  # (N,)
    known_image, known_category = place >= 0, np.isin(w.of_category, w.category_ids)
    is_box = np.isfinite(w.boxes).all(1)
    for i in np.flatnonzero(~known_image).tolist():
        problems.error("unknown-image", w.name_of(i), f"there is no image {_id(w.of_image[i])}")
    for i in np.flatnonzero(~known_category).tolist():
        problems.error("unknown-category", w.name_of(i), f"there is no category {_id(w.of_category[i])}")
    for i in np.flatnonzero(~is_box).tolist():
        problems.error("bad-box", w.name_of(i), "its box is not four finite numbers")

    usable = known_image & known_category & is_box & usable_images[place]
    height, width = sizes[place].T
    x0, y0, a, b = np.where(usable[:, None], w.boxes, 0).T
    x1, y1 = x0 + a, y0 + b
    outside = usable & ((x0 < -TOLERANCE) | (y0 < -TOLERANCE) | (x1 > width + TOLERANCE) | (y1 > height + TOLERANCE))

    as_corners = (a > x0) & (b > y0) & (a <= width + TOLERANCE) & (b <= height + TOLERANCE)
    # A few boxes, or a few flat boxes among many, are no evidence.
    enough = usable.sum() >= 4 and as_corners[usable].mean() >= 0.85
    if enough and outside.sum() >= 0.25 * usable.sum():
        what = (
            f"the boxes look like x0, y0, x1, y1 instead of x, y, width, height: {outside.sum()} of "
            f"{usable.sum()} exceed their images, and as corners they would fit"
        )
        problems.error("corners", w.name_of(int(np.flatnonzero(outside)[0])), what)
        return usable
    empty = usable & ((np.minimum(x1, width) <= np.maximum(x0, 0)) | (np.minimum(y1, height) <= np.maximum(y0, 0)))
    for i in np.flatnonzero(empty).tolist():
        problems.warning("empty-box", w.name_of(i), "no width or height is left inside the image; left out")
    for i in np.flatnonzero(outside & ~empty).tolist():
        problems.warning("box-outside", w.name_of(i), "exceeds its image; clipped in training")
    return usable & ~empty


def _id(value: int) -> str:
    return "without an id, and it names none" if value == NO_ID else str(value)


def check_together(splits: Mapping[str, Split]) -> Iterator[Problem]:
    """Yield the problems that concern several splits."""
    train = splits.get("train")
    if train is not None:
        if not (train.usable & ~train.written.crowd).any():
            yield Problem("error", "no-boxes", "train", "train", "there is no box to train on")
        for name, split in splits.items():
            for missing in sorted(_classes_with_boxes(split) - _classes_with_boxes(train)):
                what = f"class {missing!r} has boxes here and none in train"
                yield Problem("warning", "class-not-in-train", name, f"class {missing}", what)
    parents = parents_without_boxes(splits)
    for name in parents.values():
        what = f"class {name!r} is only a supercategory and has no boxes; left out"
        yield Problem("warning", "parent-class", None, f"class {name}", what)
    yield from _check_categories(splits, parents)
    yield from _same_images(splits)


def _classes_with_boxes(split: Split) -> set[str]:
    used = set(split.written.of_category[split.usable].tolist())
    return {name for i, name, *_ in split.written.categories() if i in used}


def _check_categories(splits: Mapping[str, Split], parents: Collection[int]) -> Iterator[Problem]:
    """Yield ids with several names, and names with several ids."""
    first: dict[int, tuple[str, str]] = {}  # split and name by id
    ids: dict[str, set[int]] = defaultdict(set)
    for split_name, split in splits.items():
        for i, name, *_ in split.written.categories():
            first_split, first_name = first.setdefault(i, (split_name, name))
            if first_name != name:
                what = f"named {name!r} here and {first_name!r} in {first_split}"
                yield Problem("error", "category-conflict", split_name, f"category {i}", what)
            if i not in parents:
                ids[name].add(i)
    for name, several in sorted(ids.items()):
        if len(several) > 1:
            what = f"{name!r} has the ids {', '.join(map(str, sorted(several)))}; treated as different classes"
            yield Problem("warning", "name-twice", None, f"class {name}", what)


def _same_images(splits: Mapping[str, Split]) -> Iterator[Problem]:
    """Yield identical files in different splits; only files of equal length are read."""
    by_length: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for name, split in splits.items():
        for i in np.flatnonzero(split.usable_images).tolist():
            by_length[split.written.path(i).stat().st_size].append((name, i))
    for entries in by_length.values():
        if len({name for name, _ in entries}) < 2:
            continue
        first: dict[str, tuple[str, str]] = {}
        for name, i in entries:
            w = splits[name].written
            with w.path(i).open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            first_split, first_file = first.setdefault(digest, (name, w.files[i]))
            if first_split != name:
                what = f"the same image as {first_file} in {first_split}"
                yield Problem("warning", "same-picture", name, w.files[i], what)


def parents_without_boxes(splits: Mapping[str, Split]) -> dict[int, str]:
    """Return categories that are only supercategories, by id.

    Roboflow writes such a category, which may have the name of a category below it.
    """
    categories = {i: (name, parent) for split in splits.values() for i, name, parent, _ in split.written.categories()}
    used = {i for split in splits.values() for i in split.written.of_category[split.usable].tolist()}
    children = Counter(parent for name, parent in categories.values() if parent != name)
    own = Counter(name for name, parent in categories.values() if parent == name)
    return {
        i: name
        for i, (name, parent) in categories.items()
        if i not in used and children[name] + own[name] > (parent == name)
    }


def classes_without(splits: Mapping[str, Split], left_out: Collection[int]) -> Classes:
    """Return the classes of splits by ascending id, without some categories. `things` is None if all are things."""
    categories = [
        entry for split in splits.values() for entry in split.written.categories() if entry[0] not in left_out
    ]
    names = {i: name for i, name, *_ in categories}
    stuff = {i for i, *_, thing in categories if not thing}
    ids = sorted(names)
    return Classes(
        ids=np.array(ids, dtype=np.int64),
        names=np.array([names[i] for i in ids], dtype=np.str_),
        things=np.array([i not in stuff for i in ids]) if stuff else None,
    )


def skippable_as_warnings(problems: Sequence[Problem]) -> list[Problem]:
    """Return problems with skippable errors as warnings, for `skip_bad`."""
    return [
        replace(p, severity="warning", what=f"{p.what}; left out")
        if p.severity == "error" and p.kind in SKIPPABLE
        else p
        for p in problems
    ]
