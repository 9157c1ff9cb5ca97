"""A whole data set looked through: what is there, and every problem of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from detrcli.data.checks import Exif, Split, check_split, check_together, parents_without_boxes, skip_bad
from detrcli.data.decode import alike, decode_all
from detrcli.data.mask_checks import check_masks
from detrcli.data.raw_annotations import Problem
from detrcli.data.source import DataSource
from detrcli.errors import DataError, UsageError


@dataclass(frozen=True)
class ClassCount:
    """How many boxes a class has."""

    category_id: int
    label: str
    boxes: int


@dataclass(frozen=True)
class Summary:
    """What can be used of a split; crowds are no boxes."""

    images: int
    boxes: int
    empty_images: int
    most_boxes: int
    classes: Sequence[ClassCount]


@dataclass(frozen=True)
class DatasetReport:
    """What `detr data check` knows."""

    layout: str
    splits: Mapping[str, Split]
    problems: Sequence[Problem]
    decoded: bool  # whether every picture was decoded whole
    masks: bool | None = None  # whether every mask was looked at; None where there are none, or nobody asked

    @property
    def ok(self) -> bool:
        """Whether the data can be used."""
        return not any(problem.severity == "error" for problem in self.problems)

    def by_kind(self) -> dict[tuple[str, str, str | None], list[Problem]]:
        """The problems of each severity, kind and split, errors first."""
        groups: dict[tuple[str, str, str | None], list[Problem]] = {}
        for problem in sorted(self.problems, key=lambda problem: problem.severity):
            groups.setdefault((problem.severity, problem.kind, problem.split), []).append(problem)
        return groups

    def summary(self, split: str) -> Summary:
        """Counts of a split."""
        checked = self.splits[split]
        w = checked.written
        counted = checked.usable & ~w.crowd
        per_image = _per_image(w.image_ids, w.of_image[counted])[checked.usable_images]
        left_out = parents_without_boxes(self.splits)
        return Summary(
            images=int(checked.usable_images.sum()),
            boxes=int(counted.sum()),
            empty_images=int((per_image == 0).sum()),
            most_boxes=int(per_image.max(initial=0)),
            classes=[
                ClassCount(i, name, int((w.of_category[counted] == i).sum()))
                for i, name in sorted(zip(w.category_ids.tolist(), w.names, strict=True))
                if i not in left_out
            ],
        )


def _per_image(image_ids: np.ndarray, of_image: np.ndarray) -> np.ndarray:
    order = np.argsort(image_ids, kind="stable")
    counts = np.zeros(len(image_ids), dtype=np.int64)
    np.add.at(counts, order[np.searchsorted(image_ids, of_image, sorter=order)], 1)
    return counts


def examine(
    source: DataSource,
    *,
    exif: Exif = "auto",
    full: bool = False,
    leave_out_bad: bool = False,
    masks: bool = True,
    advance: Callable[[], None] = lambda: None,
) -> DatasetReport:
    """Read every split and check it, by itself and beside the others; the masks too where they are asked for."""
    if exif == "ignore" and source.layout.name == "yolo":
        raise UsageError("YOLO's boxes are shares of the picture as it is displayed: --exif ignore does not fit them.")
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

    order = [(name, i) for name, split in splits.items() for i in np.flatnonzero(split.usable_images).tolist()]
    paths = [splits[name].written.folder / splits[name].written.files[i] for name, i in order]
    decoded = decode_all(paths, full=full, advance=advance)
    if decoded is not None:
        broken = {place: one.problem for place, one in zip(order, decoded, strict=True) if one.problem}
        for (name, i), problem in broken.items():
            w = splits[name].written
            problems.append(
                Problem("error", "bad-picture", name, f"image {w.image_ids[i]}", f"{w.files[i]}: {problem}")
            )
        splits = {name: _without(split, [i for n, i in broken if n == name]) for name, split in splits.items()}
        known = {(p.split, p.where) for p in problems if p.kind == "same-picture"}
        for a, b in combinations(splits, 2):
            here = [[(i, one) for (n, i), one in zip(order, decoded, strict=True) if n == name] for name in (a, b)]
            pairs = [
                (splits[a].written.files[here[0][x][0]], splits[b].written.files[here[1][y][0]])
                for x, y in alike([seen for _, seen in here[0]], [seen for _, seen in here[1]])
            ]
            pairs = [(first, second) for first, second in pairs if (b, second) not in known]
            if pairs:
                shown = ", ".join(f"{second} ~ {first}" for first, second in pairs[:3])
                what = f"{len(pairs)} pictures look almost like one in {a}: {shown}" + (", ..." if pairs[3:] else "")
                problems.append(Problem("warning", "near-duplicate", b, b, what))
    if leave_out_bad:
        problems = skip_bad(problems)
    found = DatasetReport(source.layout.name, splits, problems, decoded is not None)
    return masks_examined(found, full=full, leave_out_bad=leave_out_bad, advance=advance) if masks else found


def masks_examined(
    found: DatasetReport, *, full: bool, leave_out_bad: bool = False, advance: Callable[[], None] = lambda: None
) -> DatasetReport:
    """The same with the masks looked at, where that takes less than a minute or `full` asks for it."""
    if not any(split.written.outlines for split in found.splits.values()):
        return found
    splits: dict[str, Split] = {}
    problems: list[Problem] = []
    for name, split in found.splits.items():
        checked = check_masks(name, split, full=full, advance=advance)
        if checked is None:
            return replace(found, masks=False)
        splits[name] = checked
        problems += checked.problems[len(split.problems) :]
    return replace(
        found,
        splits=splits,
        problems=[*found.problems, *(skip_bad(problems) if leave_out_bad else problems)],
        masks=True,
    )


def headers_only(
    source: DataSource,
    splits: Sequence[str],
    exif: Exif = "auto",
    *,
    pictures: bool = True,
    leave_out_bad: bool = False,
) -> DatasetReport:
    """Some splits, checked by what their files and headers say, each by itself."""
    checked = {name: check_split(name, source.read(name), exif, pictures=pictures) for name in splits}
    problems = [problem for split in checked.values() for problem in split.problems]
    return DatasetReport(source.layout.name, checked, skip_bad(problems) if leave_out_bad else problems, decoded=False)


def _without(split: Split, images: Sequence[int]) -> Split:
    usable_images = split.usable_images.copy()
    usable_images[list(images)] = False
    gone = np.isin(split.written.of_image, split.written.image_ids[list(images)])
    return replace(split, usable_images=usable_images, usable=split.usable & ~gone)
