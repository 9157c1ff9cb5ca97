"""Results of many pictures as JSON lines, written as they come, so that a stopped `detr predict` can go on."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detrcli.cli.detections import Result, as_line
from detrcli.errors import DataError, UsageError
from detrcli.system import distributed
from detrcli.system.files import write_whole

SCHEMA = "detr.predict-lines/1"


class PredictionLines:
    """A file whose first line says what was asked for; each other line is one picture, in the order of their coming.

    Of several processes each writes a file of its own beside it; they go into it at the end, or when one goes on.
    """

    def __init__(self, path: Path, asked: dict[str, Any], *, resume: bool) -> None:
        self.path = path
        self.head = {"schema": SCHEMA, **asked}
        self._polygons = bool(asked.get("polygons"))
        distributed.broadcast_object(lambda: self._begin(resume=resume))
        self.done = {line["file"] for line in _lines(path)}
        several = distributed.world_size() > 1
        self._mine = _beside(path, distributed.rank()) if several else path

    def _begin(self, *, resume: bool) -> None:
        left = sorted(self.path.parent.glob(f"{self.path.name}.part*"))
        if not resume or not (self.path.exists() or left):
            for part in left:  # of a run that nobody wishes to go on with
                part.unlink()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, (json.dumps(self.head) + "\n").encode())
            return
        with self.path.open(encoding="utf-8", errors="replace") as file:
            try:
                before = json.loads(file.readline() or "{}")
            except (ValueError, RecursionError):
                before = None
        if not isinstance(before, dict) or before.get("schema") != SCHEMA:
            raise DataError(f"{self.path}: not a file of `detr predict --save`.")
        differing = [key for key, value in self.head.items() if before.get(key) != value]
        if differing:
            raise UsageError(
                f"--resume: {self.path} was begun with another {differing[0]}: {before.get(differing[0])!r}, "
                f"not {self.head[differing[0]]!r}."
            )
        _cut_what_is_half_written(self.path)
        self._take_in(left)

    def _take_in(self, parts: list[Path]) -> None:
        with self.path.open("a", encoding="utf-8") as whole:
            for part in parts:
                _cut_what_is_half_written(part)
                with part.open(encoding="utf-8") as file:
                    whole.writelines(file)
        for part in parts:
            part.unlink()

    @contextmanager
    def writing(self) -> Iterator["PredictionLines"]:
        """Lines are added in this block; each is in the file as soon as it is added."""
        with self._mine.open("a", encoding="utf-8") as self._file:
            yield self
        if distributed.world_size() > 1:
            distributed.gather(None)  # all have written
            parts = sorted(self.path.parent.glob(f"{self.path.name}.part*"))
            distributed.broadcast_object(lambda: self._take_in(parts))

    def add(self, result: Result) -> None:
        """One picture more."""
        self._file.write(json.dumps(as_line(result, polygons=self._polygons)) + "\n")
        self._file.flush()


def _beside(path: Path, rank: int) -> Path:
    return path.with_name(f"{path.name}.part{rank}")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", errors="replace") as file:
        next(file)
        for number, line in enumerate(file, 2):
            try:
                found = json.loads(line)
                if not isinstance(found["file"], str):
                    raise ValueError("no file is named")
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise DataError(
                    f"{path}: line {number} is none of `detr predict --save` ({error}).\nLeave it out, or begin anew."
                ) from None
            yield found


def _cut_what_is_half_written(path: Path) -> None:
    """Who is killed may leave the beginning of a line."""
    with path.open("r+b") as file:
        size = file.seek(0, 2)
        end = size
        while end:
            start = max(0, end - 65_536)
            file.seek(start)
            place = file.read(end - start).rfind(b"\n")
            if place >= 0:
                end = start + place + 1
                break
            end = start
        if end < size:
            file.truncate(end)
