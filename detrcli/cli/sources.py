"""Which data set a command works on, and what the check found in it."""

from pathlib import Path
from typing import TYPE_CHECKING

from detrcli.cli.console import warn
from detrcli.cli.inputs import check_folder

if TYPE_CHECKING:
    from detrcli.data.examine import DatasetReport
    from detrcli.data.source import Files
    from detrcli.data.splits import DataSource
    from detrcli.evaluation.class_mapping import ClassMapping

MOST_NAMED = 10  # classes without a partner that are named one by one


def open_source(data: Path | None, files: "Files") -> "DataSource":
    """The data set that DATA or the explicit options name."""
    from detrcli.api.opening import Callbacks
    from detrcli.data import source as opening

    check_picture_folders(files)
    source = opening.open_source(data, files)
    return source if "train" in files or data is None else opening.for_inspection(source, str(data), Callbacks(warn))


def check_picture_folders(files: "Files") -> None:
    """Tell at once of a file where a folder is meant."""
    for split, (_, images) in files.items():
        check_folder(f"--{split}-images", images)


def tell_problems(found: "DatasetReport") -> None:
    """Warnings on stderr; an error of the data ends the command."""
    from detrcli.api.opening import tell_problems as tell_problems_to

    tell_problems_to(found, warn)


def tell_class_mapping(mapping: "ClassMapping") -> None:
    """Say which classes of weights and data found no partner, and where names did not help."""
    if mapping.by == "id":
        pairs = [f"{ours} = {theirs}" for ours, theirs in mapping.pairs[:MOST_NAMED]]
        more = f" and {len(mapping.pairs) - MOST_NAMED:,} more" if len(mapping.pairs) > MOST_NAMED else ""
        warn(f"paired by id, weights = data: {', '.join(pairs)}{more}")
    for who, names in (("weights", mapping.only_weights), ("data", mapping.only_data)):
        if names:
            more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
            warn(f"classes only in the {who}: {', '.join(names[:MOST_NAMED])}{more}")
