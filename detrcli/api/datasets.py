"""Datasets: opened, checked, drawn and corrected. Without torch, unless images are drawn."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detrcli.api.results import Cell, Result, Table
from detrcli.data.checks import Exif, Split
from detrcli.data.examine import DatasetReport, examine, examine_headers, examine_masks
from detrcli.data.fix import FixList, read_fix_list, write_fixed
from detrcli.data.source import Files, for_inspection, open_data, open_source
from detrcli.data.splits import DataSource
from detrcli.evaluation.class_mapping import ClassMapping
from detrcli.messages import argument
from detrcli.reporter import SILENT, Reporter

Data = str | Path | DataSource | None  # None if `files` are given
MAX_NAMES = 10  # of classes in a note
EXAMPLES = 3  # problems of each kind in a table


def open_dataset(data: Data, files: Files | None = None, reporter: Reporter = SILENT) -> DataSource:
    """Open a dataset to be evaluated: all of an annotation file, where training would hold out a part for val.

    `files` are annotation files and image folders by split, in place of `data`.
    """
    if isinstance(data, DataSource):
        return data
    source = open_source(None if data is None else Path(data), files)
    return source if data is None else for_inspection(source, str(data), reporter)


def checked_split(
    source: DataSource,
    split: str,
    exif: Exif = "auto",
    *,
    skip_bad: bool = False,
    images: bool = True,
    reporter: Reporter = SILENT,
) -> Split:
    """Read and check a split. Warnings are reported; raises DataError if there are errors.

    Without `images` the image files need not exist.
    """
    examined = examine_headers(source, [split], exif, images=images, skip_bad=skip_bad)
    examined.check(reporter)
    return examined.splits[split]


def with_readable_masks(split: Split, name: str, *, skip_bad: bool, reporter: Reporter = SILENT) -> Split:
    """Check the masks of a split. Return it without the objects whose masks are unreadable but no errors."""
    report = DatasetReport("", {name: split}, [], decoded=False)
    report = examine_masks(report, full=True, skip_bad=skip_bad, reporter=reporter)
    report.check(reporter)
    return report.splits[name]


def note_class_mapping(mapping: ClassMapping, reporter: Reporter) -> None:
    """Report classes of weights and data without a counterpart, and the pairs of a mapping by id."""

    def listed(names: Sequence[str]) -> str:
        more = f" and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else ""
        return ", ".join(names[:MAX_NAMES]) + more

    if mapping.by == "id":
        pairs = [f"{ours} = {theirs}" for ours, theirs in mapping.pairs]
        reporter.note(f"classes matched by id, weights = data: {listed(pairs)}")
    for place, names in (("weights", mapping.only_weights), ("data", mapping.only_data)):
        if names:
            reporter.note(f"classes only in the {place}: {listed(names)}")


@dataclass(frozen=True)
class DataCheck(Result):
    """The contents and problems of a dataset."""

    report: DatasetReport
    held_out: bool  # whether val is a part of train, because the dataset has no val split

    @property
    def content(self) -> Sequence[str | Table]:
        counts = {split: self.report.summary(split) for split in self.report.splits}
        boxes = {
            split: {(entry["category_id"], entry["label"]): entry["boxes"] for entry in summary["classes"]}
            for split, summary in counts.items()
        }
        classes: list[tuple[Cell, ...]] = [
            (str(id_), label, *(of_split.get((id_, label), 0) for of_split in boxes.values()))
            for id_, label in sorted(set().union(*boxes.values()))
        ]
        problems: list[tuple[Cell, ...]] = []
        for (severity, kind, split), of_kind in self.report.by_kind().items():
            heading: tuple[Cell, ...] = (severity, kind, split or "all", len(of_kind))
            for problem in of_kind[:EXAMPLES]:
                problems.append((*heading, problem.where, problem.what))
                heading = ("", "", "", None)
            if len(of_kind) > EXAMPLES:
                problems.append((*heading, f"and {len(of_kind) - EXAMPLES} more", "(all are in the JSON document)"))
        columns = ("images", "boxes", "empty_images", "most_boxes")
        sizes = [(split, *(summary[name] for name in columns)) for split, summary in counts.items()]
        content: list[str | Table] = [
            f"layout: {self.report.layout}",
            Table("", ("split", "images", "boxes", "empty images", "most boxes"), sizes),
            Table("", ("id", "class", *(f"{split} boxes" for split in counts)), classes),
            Table("", ("", "kind", "split", "count", "where", "what"), problems),
        ]
        return content if problems else content[:-1]

    @property
    def document(self) -> dict[str, Any]:
        report = self.report
        return {
            "schema": "detr.data-check/1",
            "layout": report.layout,
            "held_out": self.held_out,
            "decoded": report.decoded,
            "masks": report.masks,
            "splits": {split: report.summary(split) for split in report.splits},
            "problems": [asdict(problem) for problem in report.problems],
        }

    def raise_errors(self) -> None:
        """Raise DataError if there are errors."""
        self.report.raise_errors()


def check_data(
    data: Data = None,
    *,
    files: Files | None = None,
    exif: Exif = "auto",
    full: bool = False,
    skip_bad: bool = False,
    reporter: Reporter = SILENT,
) -> DataCheck:
    """Count the contents of every split and find every problem. `full` decodes all images, however long it takes."""
    source = data if isinstance(data, DataSource) else open_source(None if data is None else Path(data), files)
    report = examine(source, exif=exif, full=full, skip_bad=skip_bad, reporter=reporter)
    if source.holds_out:
        reporter.note("there is no validation split; a tenth of train is held out, by a hash of the file names")
    if not report.decoded or report.masks is False:
        what = "images were not decoded" if not report.decoded else "masks were not checked"
        reporter.note(f"{what}, which takes more than a minute; {argument('full')} does it")
    return DataCheck(report, source.holds_out)


def show_data(
    data: str | Path,
    out: str | Path,
    split: str = "train",
    *,
    images: int = 16,
    augmented_size: int | None = None,
    masks: bool = False,
    seed: int = 0,
) -> None:
    """Draw random images of a split with their boxes, or masks, augmented for training at `augmented_size`."""
    from detrcli.render.data_figure import ground_truth_figure
    from detrcli.render.draw import save

    save(ground_truth_figure(open_data(Path(data)), split, images, seed, augmented_size, masks=masks), Path(out))


def fix_data(data: str | Path, marks: str | Path, out: str | Path, *, reporter: Reporter = SILENT) -> FixList:
    """Write a corrected copy of a dataset, by the marks that the page of a report saves."""
    fixes = read_fix_list(Path(marks))
    write_fixed(open_data(Path(data)), fixes, Path(out), reporter)
    return fixes
