"""Which data set a command works on, and what the check found in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from detrcli.cli.console import warn
from detrcli.cli.inputs import check_folder
from detrcli.errors import DataError, UsageError

if TYPE_CHECKING:
    from detrcli.data.examine import DatasetReport
    from detrcli.data.source import Source
    from detrcli.evaluation.class_mapping import ClassMapping

SHOWN = 3  # problems of a kind that are told one by one
MOST_NAMED = 10  # classes without a partner that are named one by one


def open_source(data: Path | None, files: Mapping[str, tuple[Path | None, Path | None]]) -> "Source":
    """The data set that DATA or the explicit options name."""
    from detrcli.data.layouts.find import explicit
    from detrcli.data.source import Source, open_data

    for split, (_, images) in files.items():
        check_folder(f"--{split}-images", images)
    named = {split: (ann, images) for split, (ann, images) in files.items() if ann and images}
    half = [split for split, pair in files.items() if any(pair) and split not in named]
    if half:
        raise UsageError(f"--{half[0]}-ann and --{half[0]}-images belong together.")
    if (data is None) == (not named):
        options = " and ".join(f"--{split}-ann and --{split}-images" for split in files)
        raise UsageError(f"Give DATA, or {options}.")
    if data is None:
        return Source(explicit(named))
    source = open_data(data)
    return source if "train" in files else _looked_at(data, source)


def _looked_at(data: Path, source: "Source") -> "Source":
    """What eval and match-debug make of an annotation file that was named: alone, all of it."""
    from detrcli.data.layouts.find import Layout
    from detrcli.data.source import Source

    layout = source.layout
    if layout.alone:
        warn(f"{data}: all of its pictures are looked at; `detr train {data}` would hold out a tenth as val")
        return Source(Layout(layout.name, dict.fromkeys(("train", "val"), layout.readers["train"])))
    if layout.named == "train":
        warn(f"{data}: this is train, and val lies beside it; --split says which is looked at")
    return source


def tell_problems(found: "DatasetReport") -> None:
    """Warnings on stderr; an error of the data ends the command."""
    # Errors last: what ends the command stands at the end.
    for (severity, kind, split), members in sorted(
        found.by_kind().items(), key=lambda group: group[0][0] == "error"
    ):
        for problem in members[:SHOWN]:
            warn(f"{severity} in {split or 'data'}: {kind}: {problem.where}: {problem.what}")
        if len(members) > SHOWN:
            warn(f"{severity} in {split or 'data'}: {kind}: and {len(members) - SHOWN:,} more")
    end_on_errors(found, " `detr data check` shows all.")


def end_on_errors(found: "DatasetReport", more: str = "") -> None:
    """Data with errors is not used."""
    from detrcli.data.checks import SKIPPABLE

    errors = [problem for problem in found.problems if problem.severity == "error"]
    if errors:
        count = f"{len(errors):,} error{'s' if len(errors) > 1 else ''} in the data."
        hint = " --skip-bad leaves out what is broken." if all(p.kind in SKIPPABLE for p in errors) else ""
        raise DataError(f"{count}{more}{hint}")


def tell_pairing(pairing: "ClassMapping") -> None:
    """Say which classes of weights and data found no partner, and where names did not help."""
    if pairing.by == "id":
        warn("no class of the weights has a name that the data knows: paired by id")
    for who, names in (("weights", pairing.only_weights), ("data", pairing.only_data)):
        if names:
            more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
            warn(f"classes only in the {who}: {', '.join(names[:MOST_NAMED])}{more}")
