"""Results of the functions: lines and tables for people, and a document for programs."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from detrcli.inspection.tables import Cell, Table

__all__ = ["Cell", "Result", "Table", "box_table", "metric"]


class Result(ABC):
    """A result that the command line prints and a notebook shows."""

    @property
    def summary(self) -> Sequence[str]:
        """Lines above the tables."""
        return ()

    @property
    def tables(self) -> Sequence[Table]:
        """Tables, with None in empty cells."""
        return ()

    @property
    def remarks(self) -> Sequence[str]:
        """Lines below the tables."""
        return ()

    @property
    @abstractmethod
    def document(self) -> Any:
        """The result for JSON."""

    def __str__(self) -> str:
        return "\n".join([*self.summary, *self.remarks])

    def _repr_html_(self) -> str:
        def row(cells: Iterable[Cell], tag: str = "td") -> str:
            return "".join(f"<{tag}>{escape('' if cell is None else str(cell))}</{tag}>" for cell in cells)

        parts = [f"<p>{escape(line)}</p>" for line in self.summary]
        for table in self.tables:
            body = "".join(f"<tr>{row(cells)}</tr>" for cells in table.rows)
            parts.append(f"<p>{escape(table.title)}</p><table><tr>{row(table.columns, 'th')}</tr>{body}</table>")
        return "".join([*parts, *(f"<p>{escape(line)}</p>" for line in self.remarks)])


def box_table(detections: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of detections, which are given as in JSON."""
    rows = [(d["query"], d["label"], f"{d['score']:.3f}", *(f"{v:.1f}" for v in d["box"])) for d in detections]
    return Table("", ("query", "label", "score", "x0", "y0", "x1", "y1"), rows)


def metric(value: float) -> str:
    """Format a metric, which is -1 where there is no object."""
    return "-1" if value < 0 else f"{value:.3f}"
