"""Opening, checking and correcting datasets. This module does not import torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detrcli.api.options import Data, data_options
from detrcli.api.results import Cell, PlainResult, Table
from detrcli.data.checks import Split
from detrcli.data.examine import DatasetReport, examine, examine_headers, examine_masks
from detrcli.data.fix import FixList, read_fix_list, write_fixed
from detrcli.data.source import for_inspection, open_data, open_source
from detrcli.data.splits import DataSource
from detrcli.evaluation.class_mapping import ClassMapping, map_classes
from detrcli.evaluation.truth import classes_in_split
from detrcli.messages import argument
from detrcli.reporter import SILENT, Reporter
from detrcli.structures import Classes
from detrcli.system.text import preview

MAX_NAMES = 10  # class names listed in a note
EXAMPLES = 3  # problems of each kind listed in a table


def open_dataset(data: Data, reporter: Reporter = SILENT) -> DataSource:
    """Open a dataset for evaluation: a single annotation file is not divided into train and val as for training."""
    options = data_options(data)
    source = open_source(options.path, options.files)
    return source if options.path is None else for_inspection(source, str(options.data), reporter)


def checked_split(data: Data, split: str, *, images: bool = True, reporter: Reporter = SILENT) -> Split:
    """Read and check a split. Warnings are reported; raises DataError if there are errors.

    Without `images` the image files need not exist.
    """
    options = data_options(data)
    source = open_dataset(options, reporter)
    examined = examine_headers(source, [split], options.exif, images=images, skip_bad=options.skip_bad)
    examined.check(reporter)
    return examined.splits[split]


def with_readable_masks(split: Split, name: str, *, skip_bad: bool, reporter: Reporter = SILENT) -> Split:
    """Check the masks of a split. Return it without objects whose unreadable masks are only warnings."""
    report = DatasetReport("", {name: split}, [], decoded=False)
    report = examine_masks(report, full=True, skip_bad=skip_bad, reporter=reporter)
    report.check(reporter)
    return report.splits[name]


def match_classes(classes: Classes, split: Split, *, by_id: bool = False, reporter: Reporter = SILENT) -> ClassMapping:
    """Match the classes of weights with those of a split. Report classes without a counterpart, and pairs by id."""
    mapping = map_classes(classes, classes_in_split(split), match_classes_by_id=by_id)
    if mapping.by == "id":
        pairs = [f"{ours} = {theirs}" for ours, theirs in mapping.pairs]
        reporter.note(f"classes matched by id, weights = data: {preview(pairs, MAX_NAMES)}")
    for side, names in (("weights", mapping.only_weights), ("data", mapping.only_data)):
        if names:
            reporter.note(f"classes only in the {side}: {preview(names, MAX_NAMES)}")
    return mapping


@dataclass(frozen=True, kw_only=True)
class DataCheck(PlainResult):
    """The contents and problems of a dataset."""

    report: DatasetReport


def check_data(data: Data, *, full: bool = False, reporter: Reporter = SILENT) -> DataCheck:
    """Count the contents of every split and find every problem. `full` decodes all images, however long it takes."""
    options = data_options(data)
    source = open_source(options.path, options.files)
    report = examine(source, exif=options.exif, full=full, skip_bad=options.skip_bad, reporter=reporter)
    if source.holds_out:
        reporter.note("there is no validation split; a tenth of train is held out, by a hash of the file names")
    if not report.decoded or report.masks is False:
        unchecked = "images were not decoded" if not report.decoded else "masks were not checked"
        reporter.note(f"{unchecked}, which takes more than a minute; {argument('full')} does it")
    counts = {split: report.summary(split) for split in report.splits}
    document = {
        "schema": "detr.data-check/1",
        "layout": report.layout,
        "held_out": source.holds_out,
        "decoded": report.decoded,
        "masks": report.masks,
        "splits": counts,
        "problems": [asdict(problem) for problem in report.problems],
    }
    return DataCheck([f"layout: {report.layout}", *_tables(report, counts)], document, report=report)


def _tables(report: DatasetReport, counts: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Return the tables of splits, of boxes per class, and of problems."""
    boxes = {
        split: {(entry["category_id"], entry["label"]): entry["boxes"] for entry in summary["classes"]}
        for split, summary in counts.items()
    }
    classes: list[tuple[Cell, ...]] = [
        (str(id_), label, *(of_split.get((id_, label), 0) for of_split in boxes.values()))
        for id_, label in sorted(set().union(*boxes.values()))
    ]
    problems: list[tuple[Cell, ...]] = []
    for (severity, kind, split), of_kind in report.by_kind().items():
        heading: tuple[Cell, ...] = (severity, kind, split or "all", len(of_kind))
        for problem in of_kind[:EXAMPLES]:
            problems.append((*heading, problem.where, problem.what))
            heading = ("", "", "", None)
        if len(of_kind) > EXAMPLES:
            problems.append((*heading, f"and {len(of_kind) - EXAMPLES} more", "(all are in the JSON document)"))
    columns = ("images", "boxes", "empty_images", "most_boxes")
    sizes = [(split, *(summary[name] for name in columns)) for split, summary in counts.items()]
    tables = [
        Table("", ("split", *(column.replace("_", " ") for column in columns)), sizes),
        Table("", ("id", "class", *(f"{split} boxes" for split in counts)), classes),
    ]
    return [*tables, Table("", ("", "kind", "split", "count", "where", "what"), problems)] if problems else tables


def fix_data(data: str | Path, marks: str | Path, out: str | Path, *, reporter: Reporter = SILENT) -> FixList:
    """Write a corrected copy of a dataset, using the file of marks saved from a report page."""
    fixes = read_fix_list(Path(marks))
    write_fixed(open_data(Path(data)), fixes, Path(out), reporter)
    return fixes
