"""Files, folders, and datasets of a single image in each layout."""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

from PIL import Image

from detrcli.data.annotations import Annotations, annotate, classes_in_report
from detrcli.data.examine import examine
from detrcli.data.source import open_data
from detrcli.structures import Classes

DOCUMENT: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.png", "width": 50, "height": 40}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 10]}],
    "categories": [{"id": 1, "name": "ant"}],
}
COCO = json.dumps(DOCUMENT)
VOC = (
    "<annotation><filename>a.png</filename><size><width>50</width><height>40</height></size><object><name>ant</name>"
    "<bndbox><xmin>3</xmin><ymin>3</ymin><xmax>20</xmax><ymax>30</ymax></bndbox></object></annotation>"
)
YAML = "train: images\nnames: [ant]\n"
LABEL = "0 .5 .5 .2 .2\n"


def written(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def image(path: Path, size: tuple[int, int] = (50, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "orange").save(path)
    return path


def png(size: tuple[int, int], depth: int, color: int, pixels: bytes, *chunks: bytes) -> bytes:
    """A PNG file of compressed pixels, which need not fit the header, with further chunks before them."""
    header = struct.pack(">IIBBBBB", *size, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (b"IHDR" + header, *chunks, b"IDAT" + pixels, b"IEND")
    )


def annotated(data: Path, split: str = "train", *, masks: bool = False) -> tuple[Annotations, Classes]:
    """The annotations of a split, and the classes of the data."""
    examined = examine(open_data(data), masks=False)
    classes = classes_in_report(examined)
    return annotate(examined.splits[split], classes, masks=masks), classes


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def coco(root: Path, text: str | bytes = COCO) -> Path:
    image(root / "train" / "a.png")
    written(root / "annotations" / "instances_train.json", text)
    return root


def voc(root: Path, text: str | bytes | None = VOC, listed: str | bytes | None = None) -> Path:
    image(root / "JPEGImages" / "a.png")
    (root / "Annotations").mkdir()
    if text is not None:
        written(root / "Annotations" / "a.xml", text)
    if listed is not None:
        written(root / "ImageSets" / "Main" / "train.txt", listed)
    return root


def yolo(root: Path, text: str | bytes = YAML, label: str | bytes = LABEL) -> Path:
    image(root / "images" / "a.png")
    written(root / "labels" / "a.txt", label)
    written(root / "data.yaml", text)
    return root


def snapshot(root: Path) -> dict[str, tuple[float, bytes]]:
    """Return every file and folder below with its time and content."""
    return {
        path.relative_to(root).as_posix(): (
            path.lstat().st_mtime_ns,
            path.read_bytes() if path.is_file() and not path.is_symlink() else b"",
        )
        for path in sorted(root.rglob("*"))
    }
