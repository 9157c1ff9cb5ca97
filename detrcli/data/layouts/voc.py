"""Pascal VOC folders: an XML file a picture, boxes in pixels counted from 1."""

import os
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from detrcli.data.images import SUFFIXES
from detrcli.data.place import lies_inside
from detrcli.data.raw_annotations import Problem, RawAnnotations, box_array
from detrcli.errors import DataError
from detrcli.structures import check_class_names
from detrcli.system.text import writable

BEYOND = 10**9  # in place of a number of pixels that no picture has


def class_names(annotations: Path) -> list[str]:
    """All names in all files, in alphabetical order; their ids are 1, 2, 3 and so on."""
    names = set()
    for path in sorted(annotations.glob("[!.]*.xml")):
        names |= {name for name, *_ in _objects(_parse(path))}
    try:
        check_class_names(sorted(names))
    except ValueError as error:
        raise DataError(f"{annotations}: {error}.") from None
    return sorted(names)


def stems_of(listing: Path, annotations: Path) -> list[str]:
    """The pictures that an ImageSets file lists, a line each, some with a mark of 1, 0 or -1 behind the name."""
    try:
        text = listing.read_text(encoding="utf-8-sig")
        lines = [writable(line.strip()) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"{listing}: cannot be read ({error}).") from None
    # A name may itself end in " 1".
    stems = [line if os.path.isfile(annotations / f"{line}.xml") else line.rsplit(maxsplit=1)[0] for line in lines]
    for stem in stems:
        if not lies_inside(annotations, stem):
            raise DataError(f"{listing}: {stem} lies outside {annotations}.")
    return stems


def read(root: Path, stems: Sequence[str], names: Sequence[str], split: str) -> RawAnnotations:
    """Read the pictures of these names."""
    if not stems:
        raise DataError(f"{root / 'Annotations'}: there are no annotations (.xml) in {split}.")
    number = {name: i for i, name in enumerate(names, 1)}
    pictures = root / "JPEGImages"
    beside = {path.stem: path.name for path in sorted(pictures.iterdir()) if path.suffix.lower() in SUFFIXES}
    files, sizes, problems = [], [], []
    rows: list[tuple[int, int, list[float], bool]] = []
    for image_id, stem in enumerate(stems, 1):
        path = root / "Annotations" / f"{stem}.xml"
        tree = _parse(path)
        files.append(beside.get(stem) or (tree.findtext("filename") or f"{stem}.jpg").replace("\\", "/"))
        sizes.append([_size(tree, "height"), _size(tree, "width")])
        for count, (name, corners, difficult) in enumerate(_objects(tree), 1):
            if corners is None:
                where = f"{path}, object {count}"
                problems.append(Problem("error", "bad-box", split, where, "its bndbox is not four numbers"))
                continue
            x0, y0, x1, y1 = corners
            # The first pixel is 1 and the last belongs to the box.
            rows.append((image_id, number[name], [x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1], difficult))
    boxes = box_array([row[2] for row in rows])
    return RawAnnotations(
        folder=pictures,
        image_ids=np.arange(1, len(files) + 1),
        files=files,
        sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
        annotation_ids=np.arange(1, len(rows) + 1),
        of_image=np.array([row[0] for row in rows], dtype=np.int64),
        of_category=np.array([row[1] for row in rows], dtype=np.int64),
        boxes=boxes,
        areas=boxes[:, 2] * boxes[:, 3],
        crowd=np.array([row[3] for row in rows], dtype=bool),
        category_ids=np.arange(1, len(names) + 1),
        names=list(names),
        parents=[""] * len(names),
        problems=problems,
    )


def _parse(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:  # the last two of encodings
        raise DataError(f"{path}: cannot be read as VOC annotations ({error}).") from None


def _size(tree: ElementTree.Element, side: str) -> int:
    said = (tree.findtext(f"size/{side}") or "").strip()
    if not said.isdecimal():
        return 0
    return int(said) if len(said) < 10 else BEYOND


def _objects(tree: ElementTree.Element) -> list[tuple[str, list[float] | None, bool]]:
    """Name, corners and whether it is difficult, of each object."""
    found = []
    for thing in tree.iter("object"):
        try:
            corners = [float(thing.findtext(f"bndbox/{key}") or "") for key in ("xmin", "ymin", "xmax", "ymax")]
        except ValueError:
            corners = None
        name = writable((thing.findtext("name") or "").strip())
        found.append((name, corners, (thing.findtext("difficult") or "0").strip() == "1"))
    return found
