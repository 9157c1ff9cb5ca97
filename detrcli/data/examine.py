"""Examining a whole dataset: its splits, their problems, and a summary of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from detrcli.data.checks import (
    SKIPPABLE,
    Exif,
    Split,
    check_split,
    check_together,
    parents_without_boxes,
    skippable_as_warnings,
)
from detrcli.data.image_files import decode, map_images, near_duplicates
from detrcli.data.mask_checks import check_masks
from detrcli.data.raw_annotations import Problem
from detrcli.data.splits import DataSource
from detrcli.errors import DataError, UsageError
from detrcli.messages import argument
from detrcli.reporter import SILENT, Reporter

LISTED_PER_KIND = 3  # problems


@dataclass(frozen=True)
class DatasetReport:
    """The examined splits of a dataset and their problems."""

    layout: str
    splits: Mapping[str, Split]
    problems: Sequence[Problem]
    decoded: bool  # whether every image was decoded
    masks: bool | None = None  # whether every mask was checked; None if there are none, or no check was requested

    @property
    def ok(self) -> bool:
        return not any(problem.severity == "error" for problem in self.problems)

    def by_kind(self) -> dict[tuple[str, str, str | None], list[Problem]]:
        """Return the problems by severity, kind and split, errors first."""
        groups: dict[tuple[str, str, str | None], list[Problem]] = {}
        for problem in sorted(self.problems, key=lambda problem: problem.severity):
            groups.setdefault((problem.severity, problem.kind, problem.split), []).append(problem)
        return groups

    def summary(self, split: str) -> dict[str, Any]:
        """Return counts of the usable part of a split, without crowds, as in the JSON document of `detr data check`."""
        checked = self.splits[split]
        w = checked.written
        counted = checked.usable & ~w.crowd
        per_image = np.bincount(w.image_index()[counted], minlength=len(w.image_ids))[checked.usable_images]
        left_out = parents_without_boxes(self.splits)
        return {
            "images": int(checked.usable_images.sum()),
            "boxes": int(counted.sum()),
            "empty_images": int((per_image == 0).sum()),
            "most_boxes": int(per_image.max(initial=0)),
            "classes": [
                {"category_id": i, "label": name, "boxes": int((w.of_category[counted] == i).sum())}
                for i, name in sorted((i, name) for i, name, *_ in w.categories())
                if i not in left_out
            ],
        }

    def check(self, reporter: Reporter = SILENT) -> None:
        """Note the problems, and raise DataError if there are errors, with their list if the reporter is silent."""
        lines = []
        groups = sorted(self.by_kind().items(), key=lambda group: group[0][0] == "error")  # errors last
        for (severity, kind, split), members in groups:
            more = len(members) - LISTED_PER_KIND
            texts = [f"{problem.where}: {problem.what}" for problem in members[:LISTED_PER_KIND]]
            texts += [f"and {more:,} more"] if more > 0 else []
            lines += [f"{severity} in {split or 'data'}: {kind}: {text}" for text in texts]
        for line in lines:
            reporter.note(line)
        self.raise_errors(" `detr data check` lists all.", [] if reporter is not SILENT else lines)

    def raise_errors(self, more: str = "", lines: Sequence[str] = ()) -> None:
        errors = [problem for problem in self.problems if problem.severity == "error"]
        if errors:
            hint = "`detr guide data` explains each kind."
            if all(problem.kind in SKIPPABLE for problem in errors):
                hint = f"{argument('skip_bad')} leaves out broken entries."
            count = f"{len(errors):,} error{'s' if len(errors) > 1 else ''} in the data."
            raise DataError("\n".join([f"{count}{more} {hint}", *(line for line in lines if line.startswith("error"))]))


def examine(
    source: DataSource,
    *,
    exif: Exif = "auto",
    full: bool = False,
    skip_bad: bool = False,
    masks: bool = True,
    reporter: Reporter = SILENT,
) -> DatasetReport:
    """Read and check every split, by itself and together with the others.

    Images are decoded, and masks checked if `masks`, where that takes less than a minute each or `full` is set. With
    `skip_bad`, errors whose entries can be left out are warnings.
    """
    if exif == "ignore" and source.layout == "yolo":
        raise UsageError(f"{argument('exif', 'ignore')}: YOLO's boxes are fractions of the image as displayed.")
    splits: dict[str, Split] = {}
    problems: list[Problem] = []
    for name in source.splits:
        try:
            splits[name] = check_split(name, source.read(name), exif)
        except DataError as error:
            problems.append(Problem("error", "unreadable", name, name, str(error)))
        else:
            problems += splits[name].problems
    problems += check_together(splits)

    images = [(name, i) for name, split in splits.items() for i in np.flatnonzero(split.usable_images).tolist()]
    paths = [splits[name].written.path(i) for name, i in images]
    decoded = map_images(decode, paths, "decoding images", full=full, reporter=reporter)
    if decoded is not None:
        hashes: dict[str, dict[int, np.ndarray]] = {name: {} for name in splits}
        broken: dict[str, list[int]] = {name: [] for name in splits}
        for (name, i), image in zip(images, decoded, strict=True):
            if isinstance(image, str):
                w = splits[name].written
                problems.append(Problem("error", "bad-picture", name, w.name_of_image(i), f"{w.files[i]}: {image}"))
                broken[name].append(i)
            else:
                hashes[name][i] = image
        splits = {name: split.without_images(broken[name]) for name, split in splits.items()}
        problems += _near_duplicates(splits, hashes, problems)
    if skip_bad:
        problems = skippable_as_warnings(problems)
    report = DatasetReport(source.layout, splits, problems, decoded is not None)
    return examine_masks(report, full=full, skip_bad=skip_bad, reporter=reporter) if masks else report


def _near_duplicates(
    splits: Mapping[str, Split], hashes: Mapping[str, Mapping[int, np.ndarray]], problems: Sequence[Problem]
) -> list[Problem]:
    """Return a warning for each pair of splits with images that look alike and are not the same file."""
    same = {(problem.split, problem.where) for problem in problems if problem.kind == "same-picture"}
    warnings = []
    for a, b in combinations(splits, 2):
        files_a, files_b = splits[a].written.files, splits[b].written.files
        similar = near_duplicates(hashes[a], hashes[b])
        pairs = [f"{files_b[y]} ~ {files_a[x]}" for x, y in similar if (b, files_b[y]) not in same]
        if pairs:
            what = f"{len(pairs)} images look almost like images of {a}: {', '.join(pairs[:3])}"
            warnings.append(Problem("warning", "near-duplicate", b, b, what + (", ..." if pairs[3:] else "")))
    return warnings


def examine_masks(
    report: DatasetReport, *, full: bool, skip_bad: bool = False, reporter: Reporter = SILENT
) -> DatasetReport:
    """Check the masks too, where that takes less than a minute or `full` is set."""
    if not any(split.written.segmentations for split in report.splits.values()):
        return report
    splits: dict[str, Split] = {}
    problems: list[Problem] = []
    for name, split in report.splits.items():
        checked = check_masks(name, split, full=full, reporter=reporter)
        if checked is None:
            return replace(report, masks=False)
        splits[name] = checked
        problems += checked.problems[len(split.problems) :]
    problems = [*report.problems, *(skippable_as_warnings(problems) if skip_bad else problems)]
    return replace(report, splits=splits, problems=problems, masks=True)


def examine_headers(
    source: DataSource, splits: Sequence[str], exif: Exif = "auto", *, images: bool = True, skip_bad: bool = False
) -> DatasetReport:
    """Check some splits, each by itself, by their annotations and, with `images`, the headers of their images."""
    checked = {name: check_split(name, source.read(name), exif, images=images) for name in splits}
    problems = [problem for split in checked.values() for problem in split.problems]
    if skip_bad:
        problems = skippable_as_warnings(problems)
    return DatasetReport(source.layout, checked, problems, decoded=False)
