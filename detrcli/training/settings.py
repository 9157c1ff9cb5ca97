"""The settings of a training, with their defaults, from TOML files and KEY=VALUE pairs. Imports no torch."""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from detrcli.checkpoints.registry import DEFAULT, PUBLISHED
from detrcli.config import Bounds, Config, Count, LossConfig, Share, TermWeights, Weight, check, hints_of
from detrcli.errors import UsageError
from detrcli.messages import argument
from detrcli.resize import MAX_SIDE

FROM_SCRATCH = "none"  # in place of weights

Side = Annotated[int, Bounds(1, MAX_SIDE)]


def setting(meaning: str, default: Any = None, **arguments: Any) -> Any:
    """Create a field with a description for the guide."""
    return field(metadata={"meaning": meaning}, **(arguments or {"default": default}))


@dataclass(frozen=True)
class Settings(Config):
    """The settings. The defaults are the published recipe; None means the default that the description names."""

    # Model
    model: str | None = setting("model; default: that of the weights, otherwise detr-r50")
    weights: str | None = setting("weights to start from, or `none` for scratch; default: the published weights")
    backbone_weights: str | None = setting(
        "when training from scratch: `imagenet`, `none` or a FILE; default: `imagenet` where available"
    )
    norm: Literal["frozen", "batch", "group"] | None = setting(
        "when training from scratch: normalization in the backbone; default: the model's"
    )
    freeze: Literal["none", "stem", "all", "detector"] | None = setting(
        "frozen part of the backbone, or `detector`: everything but the mask head; default: stem and first stage, or "
        "`none` for a random backbone"
    )
    queries: Count | None = setting("number of object queries; default: that of the weights or the model")
    dropout: Share | None = setting("dropout in the transformer; default: the model's (published: 0.1)")

    # Data
    size: Side | None = setting("shorter side of the input; default: that of the weights or the model")
    max_size: Side | None = setting("maximum longer side of the input; default: proportional to size")
    augmentation: Literal["published", "strong", "flip", "none"] = setting(
        "`published`: flips, 11 scales and crops; `strong`: flips, scales, colors, and a mosaic of four images for "
        "half of the images; `flip`: flips only; or `none`",
        "published",
    )
    batch_size: Count = setting("images per batch and process", 2)
    accumulate: Count = setting("batches per step and process, whose gradients are accumulated", 1)
    workers: Annotated[int, Bounds(0, 256)] | None = setting(
        "loader processes per process, 0 to load in the main process; default: by the number of cores"
    )

    # Optimization
    epochs: Annotated[int, Bounds(1)] = setting("number of epochs", 50)
    lr: Weight = setting("learning rate", 1e-4)
    lr_backbone: Weight | None = setting(
        "learning rate of the backbone; default: a tenth of lr, or lr for a random backbone"
    )
    schedule: Literal["step", "cosine"] = setting(
        "learning rate schedule: a tenth of lr after two thirds of the epochs, or a cosine to 0", "step"
    )
    warmup: Annotated[int, Bounds(0)] = setting("steps in which the learning rate rises linearly from 0", 0)
    weight_decay: Weight = setting("weight decay of AdamW", 1e-4)
    weight_decay_on: Literal["all", "matrices"] = setting(
        "parameters with weight decay: all, or `matrices`: without biases and other vectors", "all"
    )
    beta2: Share = setting("second beta of AdamW, the decay of squared gradients", 0.999)
    grad_clip: Weight = setting("maximum norm of the gradient, or 0 for no gradient clipping", 0.1)
    ema: Share = setting(
        "decay of the exponential moving average of the weights, which is evaluated and saved instead of them; 0: none",
        0.0,
    )
    precision: Literal["fp32", "bf16", "fp16"] = setting(
        "precision of the network; boxes, matching and losses are always float32", "fp32"
    )
    compile: bool = setting("compile the network with torch.compile, for GPUs and few different image sizes", False)
    matching: Literal["each", "last"] | None = setting(
        "match each decoder layer, or use the last layer's matching for all; default: the model's (published: `each`)"
    )
    class_cost: Literal["probability", "log", "focal"] | None = setting(
        "class term of the matching cost: -p, -log p, or focal; default: the model's (published: `probability`)"
    )
    no_object: Weight | None = setting(
        "weight of the no-object class in the cross-entropy; default: the model's (published: 0.1)"
    )
    cost: TermWeights = setting(
        "weights of the matching cost (`cost.class=2`); default: the model's (published: `class` 1, `l1` 5, `giou` 2)",
        default_factory=dict,
    )
    loss: TermWeights = setting(
        "weights of the loss (`loss.class=2`); default: the model's (published: `class` 1, `l1` 5, `giou` 2)",
        default_factory=dict,
    )
    seed: Annotated[int, Bounds(0, below=2**63)] = setting("random seed", 0)

    # Evaluation and saving
    eval_every: Annotated[int, Bounds(1)] = setting("epochs between evaluations; the last epoch is always evaluated", 1)
    patience: Annotated[int, Bounds(0)] = setting(
        "evaluations without a better AP after which the training stops early, or 0 for never", 0
    )
    save_every: Weight = setting("minutes between saved states; every epoch saves its state too", 15.0)
    tensorboard: bool = setting("write TensorBoard events (extra `tensorboard`)", False)

    def loss_config(self, model: LossConfig) -> LossConfig:
        """Return the model's own matching and loss, overridden by these settings."""
        overrides = {name: getattr(self, name) for name in ("matching", "class_cost", "no_object")}
        overrides = {name: value for name, value in overrides.items() if value is not None}
        return LossConfig(**{**vars(model.with_weights(self.cost, self.loss)), **overrides})


_TABLES = ("cost", "loss")


def given_settings(
    file: Path | None = None, options: Mapping[str, Any] | None = None, pairs: Iterable[str] = ()
) -> dict[str, Any]:
    """Merge settings: KEY=VALUE pairs override options, which override a TOML file. Options of None are not given."""
    values: dict[str, Any] = {}
    _add(values, _read(file) if file else {})
    _add(values, {key: value for key, value in (options or {}).items() if value is not None})
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"{argument('set', pair)}: not KEY=VALUE.")
        _add(values, {key.strip(): _value(text.strip())})
    make_settings(values)  # so that errors are reported at once
    return values


def make_settings(values: Mapping[str, Any], recipe: Mapping[str, Any] | None = None) -> Settings:
    """Create settings from plain values, which override a model's recipe. Raises UsageError."""
    merged: dict[str, Any] = {}
    _add(merged, recipe or {})
    _add(merged, values)
    return Settings(**merged)


def starting_weights(settings: Settings) -> str:
    """Return the weights that a training starts from: published ones if none are given and the model has them."""
    model = settings.model or DEFAULT
    return settings.weights or (model if model in PUBLISHED else FROM_SCRATCH)


def _add(values: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Override values by others, converted to the types of the settings."""
    hints = hints_of(Settings)
    for key, value in more.items():
        table, _, term = key.partition(".")
        if table in _TABLES and term:
            check(f"{table}.{term}", value, Weight)
            values[table] = {**values.get(table, {}), term: float(value)}
        elif key in _TABLES:
            check(key, value, TermWeights)
            values[key] = {**values.get(key, {}), **value}
        elif key in hints:
            values[key] = _converted(value, hints[key])
            check(key, values[key], hints[key])
        else:
            near = difflib.get_close_matches(key, hints, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]}?" if near else f"The settings are {', '.join(hints)}."
            raise UsageError(f"Unknown setting {key!r}. {hint}")


def _converted(value: Any, hint: Any) -> Any:
    """Convert integers for float settings, and numbers for string settings: a file name can be a number."""
    while arguments := get_args(hint):  # of an optional or annotated type
        hint = arguments[0]
    convert = (hint is float and type(value) is int) or (hint is str and type(value) in (int, float))
    return hint(value) if convert else value


def _value(text: str) -> Any:
    """Parse a TOML value; other text is a string."""
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        # TOML does not accept .5
        return float(text) if re.fullmatch(r"-?\.\d+(e-?\d+)?", text) else text
    return value if isinstance(value, bool | int | float | str) else text


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{argument('config', file)}: cannot be read ({error.strerror}).") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{argument('config', file)}: invalid TOML ({error}).") from None


def to_toml(settings: Settings) -> str:
    """Return the settings as TOML, without those that are None."""
    values = {key: value for key, value in asdict(settings).items() if value not in (None, {})}
    lines = [_line(key, value) for key, value in values.items() if key not in _TABLES]
    for table in _TABLES:
        if table in values:
            lines += [f"\n[{table}]\n", *(_line(term, weight) for term, weight in values[table].items())]
    return "".join(lines)


def _line(key: str, value: Any) -> str:
    # JSON is valid TOML here, but for surrogate pairs and an unescaped DEL.
    return f"{key} = {json.dumps(value, ensure_ascii=False)}\n".replace("\x7f", "\\u007f")
