"""Tables for people, and numbers rounded for JSON."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detrcli.evaluation.class_mapping import UNKNOWN_CLASS
from detrcli.structures import Classes
from detrcli.system.text import preview

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    title: str  # may be empty
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def class_entry(classes: Classes, label: int | None) -> dict[str, Any]:
    """Return a class by its index for JSON. Its id is null where the data does not have the class."""
    if label is None:
        return {"category_id": None, "label": None}
    category = int(classes.ids[label])
    return {"category_id": None if category == UNKNOWN_CLASS else category, "label": str(classes.names[label])}


def rounded(values: Any) -> Any:
    """Round numbers to six decimals and return them as plain Python values."""
    return np.round(np.asarray(values, dtype=np.float64), 6).tolist()


def rounded_fields(instance: Any) -> dict[str, Any]:
    """Return the fields of a dataclass instance, floats rounded."""
    return {name: rounded(value) if isinstance(value, float) else value for name, value in vars(instance).items()}


def number(value: float | None, decimals: int = 3) -> str:
    """Format a number for a table; None gives an empty cell."""
    return "" if value is None else f"{value:z.{decimals}f}"


def left_out(unknown: Sequence[str]) -> list[str]:
    """Return a line that counts the objects of classes that the weights do not have, if there are any."""
    counts = preview([f"{count:,} {name}" for name, count in Counter(unknown).most_common()], 5)
    objects = f"{len(unknown):,} object{'s' if len(unknown) > 1 else ''}"
    return [f"left out: {objects} of classes that the weights do not have ({counts})"] if unknown else []
