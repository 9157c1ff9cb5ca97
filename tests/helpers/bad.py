"""A bad input: the contents of an empty folder, the command, and what its error must name."""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folders
from PIL import Image

Make = Callable[[Path], object]


def nothing(root: Path) -> None: ...


def at(name: str, content: str | bytes) -> Make:
    return lambda root: folders.written(root / name, content)


def both(*makes: Make) -> Make:
    return lambda root: [make(root) for make in makes]


@dataclass(frozen=True)
class Bad:
    make: Make
    args: tuple[Any, ...]
    code: int
    item: str  # that the message names: a file, an option, a value
    remedy: str = ""  # an option, command or value that it recommends


def coco(change: Callable[[dict[str, Any]], object] = lambda document: None) -> Make:
    """An image with five boxes, whose document is changed first."""
    document = deepcopy(folders.DOCUMENT)
    document["annotations"] = [{"id": i, "image_id": 1, "category_id": 1, "bbox": [1 + i, 2, 9, 9]} for i in range(5)]
    change(document)
    return lambda root: folders.coco(root / "data", json.dumps(document))


def noise(name: str, keep: int | None = None, **how: Any) -> Make:
    def make(root: Path) -> None:
        Image.effect_noise((200, 200), 50).save(root / name, **how)
        if keep is not None:
            (root / name).write_bytes((root / name).read_bytes()[:keep])

    return make


def look(name: str) -> tuple[Any, ...]:
    """A command that reads its image first."""
    return ("visualize-attn", name, "--weights", "shapes", "--device", "cpu")


def usage(*args: Any, item: str, remedy: str = "", make: Make = nothing) -> Bad:
    """A usage error, beside a good image `a.png` and a good dataset `data`."""
    return Bad(both(noise("a.png"), coco(), make), args, 2, item, remedy)


PREDICT = ("predict", "a.png", "--weights", "shapes")
TRAIN = ("train", "data", "--weights", "shapes", "--device", "cpu")
SCORE = ("eval", "data", "--split", "train", "--predictions", "r.json")
