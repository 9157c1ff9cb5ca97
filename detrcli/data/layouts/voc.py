"""Pascal VOC folders: an XML file per image, with boxes in pixels counted from 1; read and written."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree

from detrcli.data.images import IMAGE_SUFFIXES, lies_inside
from detrcli.data.raw_annotations import Problems, RawAnnotations
from detrcli.errors import DataError
from detrcli.structures import check_class_names
from detrcli.system.text import escape_controls, writable


def class_names(annotations: Path) -> list[str]:
    """Return the class names in a folder of XML files in alphabetical order; their ids count from 1."""
    names = sorted({name for path in sorted(annotations.glob("[!.]*.xml")) for name, *_ in _objects(_parse(path))})
    try:
        check_class_names(names)
    except ValueError as error:
        raise DataError(f"{annotations}: {error}.") from None
    return names


def image_names(listing: Path, annotations: Path) -> list[str]:
    """Return the images listed in a file of ImageSets, whose lines may end with a flag: 1, 0 or -1."""
    try:
        text = listing.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"{listing}: cannot be read ({error}).") from None
    lines = [writable(line.strip()) for line in text.splitlines() if line.strip()]
    # A name may itself end in " 1".
    names = [line if os.path.isfile(annotations / f"{line}.xml") else line.rsplit(maxsplit=1)[0] for line in lines]
    for name in names:
        if not lies_inside(annotations, name):
            raise DataError(f"{listing}: {name} lies outside {annotations}.")
    return names


def read(root: Path, images: Sequence[str], names: Sequence[str], split: str) -> RawAnnotations:
    """Read the annotations of `images`, file names without suffix, with the classes `names`."""
    if not images:
        raise DataError(f"{root / 'Annotations'}: no annotations (.xml) for {split}.")
    ids = {name: i for i, name in enumerate(names, 1)}
    folder = root / "JPEGImages"
    image_files = {path.stem: path.name for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES}
    files: list[str] = []
    sizes: list[tuple[int, int]] = []
    rows: list[tuple[int, int, list[float], bool]] = []
    problems = Problems(split)
    for image_id, image in enumerate(images, 1):
        path = root / "Annotations" / f"{image}.xml"
        tree = _parse(path)
        files.append(image_files.get(image) or (tree.findtext("filename") or f"{image}.jpg").replace("\\", "/"))
        sizes.append((_size(tree, "height"), _size(tree, "width")))
        for number, (name, corners, difficult) in enumerate(_objects(tree), 1):
            if corners is None:
                problems.error("bad-box", f"{path}, object {number}", "its bndbox is not four numbers")
                continue
            x0, y0, x1, y1 = corners
            # Pixels count from 1, and the box includes the pixel (x1, y1).
            rows.append((image_id, ids[name], [x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1], difficult))
    return RawAnnotations.from_rows(folder, files, sizes, rows, {ids[name]: name for name in names}, problems)


def _parse(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:  # the last two for encodings
        raise DataError(f"{path}: cannot be read as VOC annotations ({error}).") from None


def _size(tree: ElementTree.Element, side: str) -> int:
    text = (tree.findtext(f"size/{side}") or "").strip()
    return int(text[:10]) if text.isdecimal() else 0  # no image has a size of ten digits


def _objects(tree: ElementTree.Element) -> list[tuple[str, list[float] | None, bool]]:
    """Return name, corners (x0, y0, x1, y1; None if malformed) and the difficult flag of each object."""
    objects = []
    for element in tree.iter("object"):
        try:
            corners = [float(element.findtext(f"bndbox/{key}") or "") for key in ("xmin", "ymin", "xmax", "ymax")]
        except ValueError:
            corners = None
        name = writable((element.findtext("name") or "").strip())
        objects.append((name, corners, (element.findtext("difficult") or "0").strip() == "1"))
    return objects


def annotation_xml(
    file: str, size: tuple[int, int], objects: Iterable[tuple[str, Sequence[float], float | None]]
) -> bytes:
    """Return the annotations of an image of this (height, width): names, boxes (xyxy in pixels) and scores.

    Boxes are rounded to whole pixels, at least one, since most readers expect integers.
    """
    height, width = size
    root = ElementTree.Element("annotation")

    def add(parent: ElementTree.Element, **texts: object) -> None:
        for tag, text in texts.items():
            ElementTree.SubElement(parent, tag).text = escape_controls(writable(str(text)))

    add(root, folder="JPEGImages", filename=file)
    add(ElementTree.SubElement(root, "size"), width=width, height=height, depth=3)
    add(root, segmented=0)
    for name, (x0, y0, x1, y1), score in objects:
        left, top = min(round(x0), width - 1), min(round(y0), height - 1)
        element = ElementTree.SubElement(root, "object")
        add(element, name=name, pose="Unspecified", truncated=0, difficult=0)
        box = ElementTree.SubElement(element, "bndbox")
        add(box, xmin=left + 1, ymin=top + 1, xmax=max(round(x1), left + 1), ymax=max(round(y1), top + 1))
        if score is not None:
            add(element, confidence=f"{score:.6f}")
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8")
    return text
