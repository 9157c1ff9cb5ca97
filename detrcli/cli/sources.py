"""Which data set a command works on, and what the check found in it."""

from pathlib import Path
from typing import TYPE_CHECKING

from detrcli.cli.console import warn
from detrcli.cli.inputs import check_folder

if TYPE_CHECKING:
    from detrcli.data.examine import DatasetReport
    from detrcli.data.source import DataSource
    from detrcli.data.spec import Files
    from detrcli.evaluation.class_mapping import ClassMapping

MOST_NAMED = 10  # classes without a partner that are named one by one


def open_source(data: Path | None, files: "Files") -> "DataSource":
    """The data set that DATA or the explicit options name."""
    from detrcli.data import spec

    check_picture_folders(files)
    source = spec.open_source(data, files)
    return source if "train" in files or data is None else spec.to_be_looked_at(source, str(data), warn)


def check_picture_folders(files: "Files") -> None:
    """Tell at once of a file where a folder is meant."""
    for split, (_, images) in files.items():
        check_folder(f"--{split}-images", images)


def tell_problems(found: "DatasetReport") -> None:
    """Warnings on stderr; an error of the data ends the command."""
    from detrcli.data import spec

    spec.tell_problems(found, warn)


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
