"""Curves of a training: losses, metrics, class error, gradient norm and learning rates by epoch."""

import math
from collections.abc import Mapping, Sequence
from functools import partial

from PIL import Image

from detrcli.render.plot import Panel, plot

# Columns of metrics.csv: `loss_class` is a term of the loss, `loss_denoising_class` a term of another query group.
LOSS, VALIDATION_LOSS = "loss_", "val_loss"


def curves(
    rows: Sequence[Mapping[str, float | None]], metrics: Sequence[str], best: Mapping[str, float | None] | None
) -> Image.Image:
    """Draw the rows of metrics.csv; `metrics` are the columns of the evaluation, `best` is marked."""

    def curve(name: str) -> list[tuple[float, float]]:
        return [
            (float(row["epoch"] or 0), float(value))
            for row in rows
            if (value := row.get(name)) is not None and math.isfinite(value) and not (name in metrics and value < 0)
        ]

    def group_sum(group: str) -> list[tuple[float, float]]:
        terms = [curve(LOSS + name) for name in parts if name.startswith(f"{group}_")]
        return [(points[0][0], sum(value for _, value in points)) for points in zip(*terms, strict=False)]

    columns = list(dict.fromkeys(name for row in rows for name in row))
    parts = [name.removeprefix(LOSS) for name in columns if name.startswith(LOSS)]
    groups = list(dict.fromkeys(name.partition("_")[0] for name in parts if "_" in name))
    terms = {name: curve(LOSS + name) for name in parts if "_" not in name} | {g: group_sum(g) for g in groups}
    rates = {name.removeprefix("lr_"): curve(name) for name in columns if name.startswith("lr_")}
    panel = partial(
        Panel,
        x_label="epoch",
        x_range=(float(rows[0]["epoch"] or 0), float(rows[-1]["epoch"] or 0)) if rows else None,
        mark=None if best is None else (float(best["epoch"] or 0), "best"),
        y_min=0,
    )
    losses = {"training": curve("loss"), "validation": curve(VALIDATION_LOSS)}
    return plot(
        [
            panel("loss, all layers, weighted", curves=losses),
            panel("loss, last layer, by term", curves=terms),
            panel("validation", curves={name: curve(name) for name in metrics[:3]}, y_max=1),
            panel("class error, %", curves={"class error": curve("class_error")}, y_max=100),
            panel("gradient norm", curves={"before clipping": curve("grad_norm")}),
            panel("learning rate", curves={"transformer": curve("lr"), **rates}),
        ],
        columns=3,
    )
