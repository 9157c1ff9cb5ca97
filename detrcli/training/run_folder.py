"""The files of a run folder: settings, weights, metrics and figures, each replaced in a single step."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.formats import native
from detrcli.checkpoints.load import BEST
from detrcli.errors import DataError, MachineError
from detrcli.messages import argument
from detrcli.render.draw import save as save_image
from detrcli.render.plot import training_curves
from detrcli.system.files import write_whole
from detrcli.system.text import escape_controls
from detrcli.training.run_status import CONFIG, HEAD, METRICS_FILE, SOURCE, TENSORBOARD
from detrcli.training.settings import Settings, to_toml

LAST, CURVES, PREDICTIONS = "last", "curves.png", "val-predictions.png"
DIVERGED = "diverged.pt"  # the batches of the step that diverged
MACHINE_COLUMNS = ("images_per_second", "waiting", "memory_mb", "seconds")  # differ between equal trainings

Row = Mapping[str, float | None]  # None where nothing was measured


class RunFolder:
    """Writes the files of a training."""

    def __init__(self, path: Path, *, tensorboard: bool = False) -> None:
        self.path = path
        self._board: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise MachineError(
                    f"{argument('tensorboard', 'true')}: TensorBoard is not installed.\n"
                    "pip install 'detrcli[tensorboard]'"
                ) from None
            self._board = SummaryWriter(str(path / TENSORBOARD))

    def write_config(self, settings: Settings, data: str) -> None:
        write_whole(self.path / CONFIG, f"{HEAD}{escape_controls(data)}\n{to_toml(settings)}".encode())

    def write_source(self, source: Mapping[str, Any]) -> None:
        write_whole(self.path / SOURCE, (json.dumps(source, indent=2) + "\n").encode())

    def write_weights(self, checkpoint: Checkpoint, *, best: bool) -> None:
        native.save_as(checkpoint, self.path, LAST)
        if best:
            native.save_as(checkpoint, self.path, BEST)

    def write_rows(self, rows: Sequence[Row], metrics: Sequence[str], best: Row | None) -> None:
        """Write metrics.csv and its curves; `metrics` are the columns of the evaluation."""
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_whole(self.path / METRICS_FILE, text.getvalue().encode())
        self.write_image(training_curves(rows, metrics, best), CURVES)
        if self._board:
            row = rows[-1]
            for name in columns[1:]:
                if row.get(name) is not None:
                    self._board.add_scalar(name, row[name], row["epoch"])
            self._board.flush()

    def write_image(self, image: Image.Image, name: str) -> None:
        save_image(image, self.path / name)


def data_of(run: Path) -> dict[str, Any]:
    """Read the fields of the run's DataSpec."""
    try:
        source: dict[str, Any] = json.loads((run / SOURCE).read_bytes())
        return {key: source[key] for key in ("data", "files", "exif", "skip_bad")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{run / SOURCE}: does not name the data of the run ({error}).") from None


def read_rows(run: Path) -> list[dict[str, float]]:
    """Read metrics.csv: a row per epoch, without the values that were not measured."""
    path = run / METRICS_FILE
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
        if not all("epoch" in row for row in rows):
            raise ValueError("a row has no epoch")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not the metrics of a training ({error}).") from None
    return rows


def best_of(rows: Sequence[Row], metric: str) -> Row | None:
    """Return the row with the highest value of a metric, the latest of equal rows; None if nothing was measured."""
    measured = [row for row in rows if (value := row.get(metric)) is not None and value >= 0]
    return max(measured, key=lambda row: (row[metric] or 0, row["epoch"] or 0), default=None)


def since_best(rows: Sequence[Row], metric: str) -> int:
    """Return the number of evaluations after the first with the highest value."""
    measured = [value for row in rows if (value := row.get(metric)) is not None]
    return len(measured) - 1 - measured.index(max(measured)) if measured else 0
