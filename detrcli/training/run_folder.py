"""The run folder: weights, state, settings, figures and curves, each written whole or not at all."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from detrcli.errors import MachineError
from detrcli.evaluation.metrics import METRICS
from detrcli.render.draw import save as save_picture
from detrcli.render.plot import Panel, plot
from detrcli.system.files import write_whole
from detrcli.system.text import visible
from detrcli.training.settings import Settings, to_toml
from detrcli.weights.formats import native
from detrcli.weights.load import BEST
from detrcli.weights.weights import Weights

LAST, METRICS_FILE, CURVES, CONFIG = "last.safetensors", "metrics.csv", "curves.png", "config.toml"
FIRST_BATCH, PREDICTIONS = "first-batch.png", "val-predictions.png"

LOSSES = ("loss", "loss_class", "loss_l1", "loss_giou", "class_error", "grad_norm")
RATES = ("lr", "lr_backbone")
MACHINE = ("pictures_per_second", "waiting", "memory_mb", "seconds")  # differ from run to run
COLUMNS = ("epoch", *LOSSES, *RATES, *METRICS, *MACHINE)

Row = Mapping[str, float | None]  # None where nothing was measured


class RunFolder:
    """Where a training leaves what it makes."""

    def __init__(self, path: Path, *, tensorboard: bool = False) -> None:
        self.path = path
        self._board = _tensorboard(path) if tensorboard else None

    def write_config(self, chosen: Settings, data: str) -> None:
        """The settings, which `--config` takes again."""
        write_whole(self.path / CONFIG, f"# detr train {visible(data)}\n{to_toml(chosen)}".encode())

    def write_weights(self, weights: Weights, *, best: bool) -> None:
        """The last weights, which may be the best ones."""
        file = native.to_file(weights)
        write_whole(self.path / LAST, file)
        if best:
            write_whole(self.path / BEST, file)

    def write_rows(self, rows: Sequence[Row]) -> None:
        """`metrics.csv`, and the curves that it makes."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_whole(self.path / METRICS_FILE, text.getvalue().encode())
        save_picture(curves(rows), self.path / CURVES)
        if self._board:
            row = rows[-1]
            for name in COLUMNS[1:]:
                if row[name] is not None:
                    self._board.add_scalar(name, row[name], row["epoch"])
            self._board.flush()

    def write_picture(self, picture: Image.Image, name: str) -> None:
        """A picture under one of the names above."""
        save_picture(picture, self.path / name)


def best_of(rows: Sequence[Row]) -> Row | None:
    """The row of the best AP, the later of equals; None where there is none."""
    measured = [row for row in rows if (row["AP"] or 0) >= 0 and row["AP"] is not None]
    return max(measured, key=lambda row: (row["AP"] or 0, row["epoch"] or 0), default=None)


def since_best(rows: Sequence[Row]) -> int:
    """How many evaluations have been no better than the best before them."""
    measured = [row["AP"] for row in rows if row["AP"] is not None]
    return len(measured) - 1 - measured.index(max(measured)) if measured else 0


def curves(rows: Sequence[Row]) -> Image.Image:
    """Losses, class error, AP and learning rate against epochs."""

    def curve(name: str) -> list[tuple[float, float]]:
        return [
            (float(row["epoch"] or 0), float(value))
            for row in rows
            if (value := row[name]) is not None
            and math.isfinite(value)
            and not (name in METRICS and value < 0)
        ]

    return plot(
        [
            Panel("loss, all layers, weighted", "epoch", {"loss": curve("loss")}, least=0),
            Panel(
                "loss, last layer, by term",
                "epoch",
                {name: curve(f"loss_{name}") for name in ("class", "l1", "giou")},
                least=0,
            ),
            Panel("validation", "epoch", {name: curve(name) for name in ("AP", "AP50", "AP75")}, 0, 1),
            Panel("class error, %", "epoch", {"class error": curve("class_error")}, 0, 100),
            Panel("gradient norm", "epoch", {"before clipping": curve("grad_norm")}, least=0),
            Panel(
                "learning rate",
                "epoch",
                {"transformer": curve("lr"), "backbone": curve("lr_backbone")},
                least=0,
            ),
        ],
        columns=3,
    )


def _tensorboard(path: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MachineError(
            "tensorboard = true needs TensorBoard, which is not installed: pip install 'detrcli[tensorboard]'"
        ) from None
    return SummaryWriter(str(path / "tensorboard"))
