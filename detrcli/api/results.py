"""Results of the functions: lines and tables for people, and a document for JSON."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from detrcli.inspection.tables import Cell as Cell
from detrcli.inspection.tables import Table as Table


class Result(ABC):
    """A result that the command line prints and a notebook shows."""

    @property
    @abstractmethod
    def content(self) -> Sequence[str | Table]:
        """Lines and tables for people. Tables have None in empty cells."""

    @property
    @abstractmethod
    def document(self) -> Any:
        """The result for JSON."""

    def __str__(self) -> str:
        return "\n".join(part for part in self.content if isinstance(part, str))

    def _repr_html_(self) -> str:
        def row(cells: Iterable[Cell], tag: str = "td") -> str:
            return "".join(f"<{tag}>{escape('' if cell is None else str(cell))}</{tag}>" for cell in cells)

        html = []
        for part in self.content:
            if isinstance(part, str):
                html.append(f"<p>{escape(part)}</p>")
            else:
                body = "".join(f"<tr>{row(cells)}</tr>" for cells in part.rows)
                html.append(f"<p>{escape(part.title)}</p><table><tr>{row(part.columns, 'th')}</tr>{body}</table>")
        return "".join(html)


@dataclass(frozen=True)
class PlainResult(Result):
    """A result whose content and document are fields."""

    content: Sequence[str | Table] = ()
    document: Any = None


def box_table(detections: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of detections, which are given as in JSON."""
    rows = [(d["query"], d["label"], f"{d['score']:.3f}", *(f"{v:.1f}" for v in d["box"])) for d in detections]
    return Table("", ("query", "label", "score", "x0", "y0", "x1", "y1"), rows)


def metric(value: float) -> str:
    """Format a metric, which is -1 where there is no object."""
    return "-1" if value < 0 else f"{value:.3f}"
