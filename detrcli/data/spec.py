"""Which data a user means, in plain values: so a run remembers it."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from detrcli.data.checks import SKIPPABLE, Exif
from detrcli.data.examine import DatasetReport
from detrcli.data.layouts.find import Layout, explicit
from detrcli.data.source import BUILT_IN, DataSource, open_data
from detrcli.errors import DataError, UsageError

Files = Mapping[str, tuple[Path | None, Path | None]]  # split -> annotations, pictures
Note = Callable[[str], None]

SHOWN = 3  # problems of a kind that are listed


def no_note(text: str) -> None:
    """Where nobody listens, what is wrong stands in the error."""


@dataclass(frozen=True)
class DataSpec:
    """DATA, or annotation files and picture folders by split; and how they are read."""

    data: str | None
    files: dict[str, list[str | None]]
    exif: Exif = "auto"
    skip_bad: bool = False

    @classmethod
    def of(cls, data: Path | None, files: Files | None = None, exif: Exif = "auto", *, skip_bad: bool = False) -> Self:
        """Paths are made absolute: a run may be resumed from elsewhere."""

        def absolute(path: Path | None) -> str | None:
            return None if path is None else os.path.abspath(path)

        named = None if data is None else (str(data) if str(data) == BUILT_IN else absolute(data))
        pairs = {split: [*map(absolute, pair)] for split, pair in (files or {}).items()}
        return cls(named, pairs, exif, skip_bad)

    @property
    def name(self) -> str:
        """What to call it."""
        return self.data or str(next(pair[0] for pair in self.files.values()))

    def open(self) -> DataSource:
        """Its splits."""
        files = {
            split: (None if ann is None else Path(ann), None if images is None else Path(images))
            for split, (ann, images) in self.files.items()
        }
        return open_source(None if self.data is None else Path(self.data), files)


def open_source(data: Path | None, files: Files | None = None) -> DataSource:
    """The data set that DATA or explicit files name."""
    files = files or {}
    named = {split: (ann, images) for split, (ann, images) in files.items() if ann and images}
    half = [split for split, pair in files.items() if any(pair) and split not in named]
    if half:
        raise UsageError(f"--{half[0]}-ann and --{half[0]}-images belong together.")
    if (data is None) == (not named):
        options = " and ".join(f"--{split}-ann and --{split}-images" for split in files)
        raise UsageError(f"Give DATA, or {options}." if options else "Give DATA.")
    return DataSource(explicit(named)) if data is None else open_data(data)


def to_be_looked_at(source: DataSource, name: str, note: Note) -> DataSource:
    """What is made of an annotation file that was named to be looked at: alone, all of it."""
    layout = source.layout
    if layout.alone:
        note(f"{name}: all of its pictures are looked at; `detr train {name}` would hold out a tenth as val")
        return DataSource(Layout(layout.name, dict.fromkeys(("train", "val"), layout.readers["train"])))
    if layout.named == "train":
        note(f"{name}: this is train, and val lies beside it; --split says which is looked at")
    return source


def tell_problems(found: DatasetReport, note: Note) -> None:
    """Note what is wrong; an error of the data is raised."""
    lines = []
    # Errors last: what ends the command stands at the end.
    for (severity, kind, split), members in sorted(found.by_kind().items(), key=lambda group: group[0][0] == "error"):
        for problem in members[:SHOWN]:
            lines.append(f"{severity} in {split or 'data'}: {kind}: {problem.where}: {problem.what}")
        if len(members) > SHOWN:
            lines.append(f"{severity} in {split or 'data'}: {kind}: and {len(members) - SHOWN:,} more")
    for line in lines:
        note(line)
    unheard = [line for line in lines if line.startswith("error")] if note is no_note else []
    end_on_errors(found, " `detr data check` shows all.", unheard)


def end_on_errors(found: DatasetReport, more: str = "", lines: Sequence[str] = ()) -> None:
    """Data with errors is not used."""
    errors = [problem for problem in found.problems if problem.severity == "error"]
    if errors:
        count = f"{len(errors):,} error{'s' if len(errors) > 1 else ''} in the data."
        skippable = all(problem.kind in SKIPPABLE for problem in errors)
        guide = "`detr guide data` says what each kind means."
        hint = "--skip-bad leaves out what is broken." if skippable else guide
        raise DataError("\n".join([f"{count}{more} {hint}", *lines]))
