"""Numbers as they are told: in tables for people, in plain values for JSON."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from detrcli.evaluation.class_mapping import UNKNOWN_CLASS
from detrcli.structures import Classes
from detrcli.system.text import preview

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """Rows under the names of their columns."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def class_of(classes: Classes, label: int | None) -> dict[str, Any]:
    """A class in the data's terms; its id is null where the data does not have it."""
    if label is None:
        return {"category_id": None, "label": None}
    category = int(classes.ids[label])
    return {"category_id": None if category == UNKNOWN_CLASS else category, "label": str(classes.names[label])}


def rounded(values: Any) -> Any:
    """Numbers with six digits after the point, as plain Python."""
    return np.round(np.asarray(values, dtype=np.float64), 6).tolist()


def plain(one: Any) -> dict[str, Any]:
    """The fields of a dataclass, rounded."""
    return {name: rounded(value) if isinstance(value, float) else value for name, value in asdict(one).items()}


def left_out(unknown: Sequence[str]) -> str:
    """That objects were left out, by their classes, which the weights do not know; nothing where there are none."""
    if not unknown:
        return ""
    kinds = [f"{count:,} {name}" for name, count in Counter(unknown).most_common()]
    objects = f"{len(unknown):,} object{'s' if len(unknown) > 1 else ''}"
    return f"left out, of classes that the weights do not know: {objects} ({preview(kinds, 5)})"


def number(value: float | None) -> str:
    """A number for a table."""
    return "" if value is None else f"{value:z.3f}"
