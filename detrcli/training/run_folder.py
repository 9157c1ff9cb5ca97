"""The run folder: weights, state, settings, figures and curves, each written whole or not at all."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.load import BEST
from detrcli.checkpoints.save import save as save_weights
from detrcli.errors import DataError, MachineError
from detrcli.render.draw import save as save_picture
from detrcli.render.plot import Panel, plot
from detrcli.system.files import write_whole
from detrcli.system.text import escape_controls
from detrcli.training.run_status import CONFIG, HEAD, SOURCE, TENSORBOARD
from detrcli.training.settings import Settings, to_toml

LAST, METRICS_FILE, CURVES, PREDICTIONS = "last", "metrics.csv", "curves.png", "val-predictions.png"
DIVERGED = "diverged.pt"  # the batch at which the loss was no number any more

LOSS = "loss_"  # before the name of a part of the loss, in a row
VALIDATION_LOSS = "val_loss"
MACHINE = ("pictures_per_second", "waiting", "memory_mb", "seconds")  # differ from run to run

Row = Mapping[str, float | None]  # None where nothing was measured


class RunFolder:
    """Where a training leaves what it makes."""

    def __init__(self, path: Path, *, tensorboard: bool = False) -> None:
        self.path = path
        self._board = _tensorboard(path) if tensorboard else None

    def write_config(self, settings: Settings, data: str) -> None:
        """The settings, which `--config` takes again."""
        write_whole(self.path / CONFIG, f"{HEAD}{escape_controls(data)}\n{to_toml(settings)}".encode())

    def write_source(self, source: Mapping[str, Any]) -> None:
        """The data, in the plain values of a DataSpec."""
        write_whole(self.path / SOURCE, (json.dumps(source, indent=2) + "\n").encode())

    def write_weights(self, checkpoint: Checkpoint, *, best: bool) -> None:
        """The last weights, which may be the best ones."""
        save_weights(checkpoint, self.path, LAST)
        if best:
            save_weights(checkpoint, self.path, BEST)

    def write_rows(self, rows: Sequence[Row], evaluated: Sequence[str]) -> None:
        """`metrics.csv`, and the curves that it makes; `evaluated` are the columns of the evaluation."""
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_whole(self.path / METRICS_FILE, text.getvalue().encode())
        save_picture(curves(rows, evaluated), self.path / CURVES)
        if self._board:
            row = rows[-1]
            for name in columns[1:]:
                if row.get(name) is not None:
                    self._board.add_scalar(name, row[name], row["epoch"])
            self._board.flush()

    def write_picture(self, picture: Image.Image, name: str) -> None:
        """A picture under one of the names above."""
        save_picture(picture, self.path / name)


def is_run(folder: Path) -> bool:
    """Whether a training has left this folder."""
    return (folder / CONFIG).is_file() and (folder / METRICS_FILE).is_file()


def data_of(run: Path) -> dict[str, Any]:
    """The data that a run was trained on, in the plain values of a DataSpec."""
    try:
        found: dict[str, Any] = json.loads((run / SOURCE).read_bytes())
        return {key: found[key] for key in ("data", "files", "exif", "skip_bad")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{run / SOURCE}: it does not say which data was trained on ({error}).") from None


def read_rows(run: Path) -> list[dict[str, float]]:
    """What `metrics.csv` has of each epoch, of what was measured in it."""
    path = run / METRICS_FILE
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
        if not all("epoch" in row for row in rows):
            raise ValueError("a row has no epoch")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: cannot be read as the figures of a training ({error}).") from None
    return rows


def best_of(rows: Sequence[Row], best: str) -> Row | None:
    """The row in which the value of that name is highest, the later of equals; None where there is none."""
    measured = [row for row in rows if (value := row.get(best)) is not None and value >= 0]
    return max(measured, key=lambda row: (row[best] or 0, row["epoch"] or 0), default=None)


def since_best(rows: Sequence[Row], best: str) -> int:
    """How many evaluations have been no better than the best before them."""
    measured = [value for row in rows if (value := row.get(best)) is not None]
    return len(measured) - 1 - measured.index(max(measured)) if measured else 0


def curves(rows: Sequence[Row], evaluated: Sequence[str]) -> Image.Image:
    """Losses, class error, what was evaluated and learning rate against epochs."""

    def curve(name: str) -> list[tuple[float, float]]:
        return [
            (float(row["epoch"] or 0), float(value))
            for row in rows
            if (value := row.get(name)) is not None and math.isfinite(value) and not (name in evaluated and value < 0)
        ]

    columns = list(dict.fromkeys(name for row in rows for name in row))
    parts = [name.removeprefix(LOSS) for name in columns if name.startswith(LOSS)]
    own = [name for name in parts if "_" not in name]  # else it is of a further group, as denoising_class
    groups = list(dict.fromkeys(name.partition("_")[0] for name in parts if "_" in name))
    rates = [name for name in columns if name == "lr" or name.startswith("lr_")]
    best = best_of(rows, evaluated[0]) if evaluated else None
    mark = None if best is None else (float(best["epoch"] or 0), "best")
    span = (float(rows[0]["epoch"] or 0), float(rows[-1]["epoch"] or 0)) if rows else None

    def summed(group: str) -> list[tuple[float, float]]:
        """All terms of a group of queries."""
        terms = [curve(LOSS + name) for name in parts if name.startswith(f"{group}_")]
        return [(one[0][0], sum(value for _, value in one)) for one in zip(*terms, strict=False)]

    def panel(title: str, names: Mapping[str, str], least: float | None = 0, most: float | None = None) -> Panel:
        shown = {name: curve(column) for name, column in names.items()}
        return Panel(title, "epoch", shown, least, most, span, mark)

    return plot(
        [
            panel("loss, all layers, weighted", {"training": "loss", "validation": VALIDATION_LOSS}),
            Panel(
                "loss, last layer, by term",
                "epoch",
                {name: curve(LOSS + name) for name in own} | {group: summed(group) for group in groups},
                0,
                None,
                span,
                mark,
            ),
            panel("validation", {name: name for name in evaluated[:3]}, 0, 1),
            panel("class error, %", {"class error": "class_error"}, 0, 100),
            panel("gradient norm", {"before clipping": "grad_norm"}),
            panel("learning rate", {_rate(name): name for name in rates}),
        ],
        columns=3,
    )


def _rate(column: str) -> str:
    return column.removeprefix("lr_") if column != "lr" else "transformer"


def _tensorboard(path: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MachineError(
            "tensorboard = true needs TensorBoard, which is not installed: pip install 'detrcli[tensorboard]'"
        ) from None
    return SummaryWriter(str(path / TENSORBOARD))
