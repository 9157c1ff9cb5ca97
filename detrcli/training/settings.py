"""All that a training can be told, with its defaults; from TOML files and KEY=VALUE. No torch."""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from detrcli.config import Bounds, Config, Count, LossConfig, Share, TermWeights, Weight, check, hints_of
from detrcli.errors import UsageError
from detrcli.resize import MAX_SIDE

FROM_SCRATCH = "none"  # in place of weights
DEFAULT_MODEL = "detr-r50"

Side = Annotated[int, Bounds(1, MAX_SIDE)]


def meaning(text: str) -> dict[str, str]:
    """What a setting is, for the guide and for errors."""
    return {"meaning": text}


@dataclass(frozen=True)
class Settings(Config):
    """The published recipe, unless told otherwise. None stands for what the meaning says of it."""

    # What is trained.
    model: str | None = field(
        default=None,
        metadata=meaning("the model; default: what the weights are, else detr-r50 with its published weights"),
    )
    weights: str | None = field(
        default=None, metadata=meaning("what to start from; `none` for scratch; default: the model's own weights")
    )
    backbone_weights: str | None = field(
        default=None,
        metadata=meaning("from scratch: `imagenet`, `none` or a FILE; default: imagenet where there are such"),
    )
    norm: Literal["frozen", "batch", "group"] | None = field(
        default=None, metadata=meaning("from scratch: normalisation in the backbone; default: the model's")
    )
    freeze: Literal["none", "stem", "all", "detector"] | None = field(
        default=None,
        metadata=meaning(
            "what of the backbone stays as it is, or `detector`: all but the mask head; default: stem and first "
            "stage, none if the backbone is random"
        ),
    )
    queries: Count | None = field(
        default=None, metadata=meaning("object queries; default: as the weights or the model have them")
    )
    dropout: Share | None = field(
        default=None, metadata=meaning("in the transformer; default: the model's, published 0.1")
    )

    # What it sees.
    size: Side | None = field(
        default=None, metadata=meaning("shorter side of the input; default: the weights' or the model's")
    )
    max_size: Side | None = field(default=None, metadata=meaning("longest side of the input; default: grows with size"))
    augmentation: Literal["published", "strong", "flip", "none"] = field(
        default="published",
        metadata=meaning(
            "flips, 11 scales and crops; `strong`: flips, scales, colours, every second time a mosaic of four; "
            "`flip`: flips alone, all at size; or `none`"
        ),
    )
    batch_size: Count = field(default=2, metadata=meaning("pictures at a time, of each process"))
    accumulate: Count = field(default=1, metadata=meaning("batches of a process that make one step"))
    workers: Annotated[int, Bounds(0, 256)] | None = field(
        default=None, metadata=meaning("processes that load pictures; default: by the machine")
    )

    # How it learns.
    epochs: Annotated[int, Bounds(1)] = field(default=50, metadata=meaning("how often every picture is seen"))
    lr: Weight = field(default=1e-4, metadata=meaning("learning rate"))
    lr_backbone: Weight | None = field(
        default=None, metadata=meaning("that of the backbone; default: a tenth of lr, or lr if the backbone is random")
    )
    schedule: Literal["step", "cosine"] = field(
        default="step", metadata=meaning("a tenth of lr after two thirds; or a cosine to 0")
    )
    warmup: Annotated[int, Bounds(0)] = field(default=0, metadata=meaning("steps in which lr rises from 0"))
    weight_decay: Weight = field(default=1e-4, metadata=meaning("of AdamW"))
    weight_decay_on: Literal["all", "matrices"] = field(
        default="all",
        metadata=meaning("what weight_decay is of: all that is trained, or `matrices`: no biases, norms and codes"),
    )
    beta2: Share = field(default=0.999, metadata=meaning("of AdamW: how long it remembers squared gradients"))
    grad_clip: Weight = field(default=0.1, metadata=meaning("greatest norm of the gradient; 0 for any"))
    ema: Share = field(
        default=0.0,
        metadata=meaning("decay of a running mean of the weights, which is then evaluated and kept; 0: none"),
    )
    precision: Literal["fp32", "bf16", "fp16"] = field(
        default="fp32", metadata=meaning("of the network; boxes, matching and losses are float32 always")
    )
    compile: bool = field(
        default=False,
        metadata=meaning("the network by torch.compile: pays on a GPU where pictures have one size, or few"),
    )
    matching: Literal["each", "last"] | None = field(
        default=None,
        metadata=meaning(
            "each decoder layer by itself, or `last`: all by the last one's pairs; default: the model's, `each`"
        ),
    )
    class_cost: Literal["probability", "log", "focal"] | None = field(
        default=None,
        metadata=meaning("of the matching: -p as published, -log p, or focal; default: the model's, `probability`"),
    )
    no_object: Weight | None = field(
        default=None, metadata=meaning("weight of `no object` in the cross-entropy; default: the model's, 0.1")
    )
    cost: TermWeights = field(
        default_factory=dict,
        metadata=meaning(
            "weights of the matching cost's terms (`cost.class=2`); default: the model's, `class` 1, `l1` 5, `giou` 2"
        ),
    )
    loss: TermWeights = field(
        default_factory=dict,
        metadata=meaning(
            "weights of the loss's terms (`loss.class=2`); default: the model's, `class` 1, `l1` 5, `giou` 2"
        ),
    )
    seed: Annotated[int, Bounds(0, below=2**63)] = field(default=0, metadata=meaning("of everything that is random"))

    # What it keeps.
    eval_every: Annotated[int, Bounds(1)] = field(
        default=1, metadata=meaning("epochs between evaluations; the last epoch always has one")
    )
    patience: Annotated[int, Bounds(0)] = field(
        default=0, metadata=meaning("evaluations without a better AP after which it ends; 0: never")
    )
    save_every: Weight = field(
        default=15.0, metadata=meaning("minutes between saved states; one comes with every epoch too")
    )
    tensorboard: bool = field(default=False, metadata=meaning("write events for TensorBoard (extra `tensorboard`)"))

    def loss_config(self, model: LossConfig) -> LossConfig:
        """How a model is matched and charged that is trained so: its own way, but for what is said here."""
        with_weights = model.with_weights(self.cost, self.loss)
        own = {
            name: value
            for name in ("matching", "class_cost", "no_object")
            if (value := getattr(self, name)) is not None
        }
        return LossConfig(**{**vars(with_weights), **own})


_TABLES = ("cost", "loss")


def given_settings(
    file: Path | None = None, options: Mapping[str, Any] | None = None, pairs: Iterable[str] = ()
) -> dict[str, Any]:
    """What a user says: a TOML file, over it the options that were given, over these KEY=VALUE pairs."""
    values: dict[str, Any] = {}
    _add(values, _read(file) if file else {})
    _add(values, {key: value for key, value in (options or {}).items() if value is not None})
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"--set {pair}: it is KEY=VALUE.")
        _add(values, {key.strip(): _value(text.strip())})
    make_settings(values)  # what is wrong is said at once
    return values


def make_settings(values: Mapping[str, Any], recipe: Mapping[str, Any] | None = None) -> Settings:
    """Settings from plain values, over a model's own recipe; an unknown key or another kind of value is an error."""
    merged: dict[str, Any] = {}
    _add(merged, recipe or {})
    _add(merged, values)
    return Settings(**merged)


def _add(values: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Put these over those, each as its setting has it."""
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
            hint = f"Did you mean {near[0]}?" if near else f"There is {', '.join(hints)}."
            raise UsageError(f"There is no setting {key!r}. {hint}")


def _converted(value: Any, hint: Any) -> Any:
    """A whole number where any number may stand, and a number where a word is meant."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] if NoneType in get_args(hint) else [hint]
    kind = get_args(kinds[0])[0] if get_origin(kinds[0]) is Annotated else kinds[0]
    if kind is float and type(value) is int:
        return float(value)
    if kind is str and type(value) in (int, float):
        return str(value)  # a file or folder whose name is a number
    return value


def _value(text: str) -> Any:
    """A value as TOML has it; what is none is a word."""
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        # TOML has no .5, but people and shells do.
        return float(text) if re.fullmatch(r"-?\.\d+(e-?\d+)?", text) else text
    return value if isinstance(value, bool | int | float | str) else text


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {file}: cannot be read ({error.strerror}).") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {file}: it is no TOML ({error}).") from None


def to_toml(settings: Settings) -> str:
    """A file that gives the same settings again; what is None is left out."""
    values = {key: value for key, value in asdict(settings).items() if value not in (None, {})}
    lines = [_line(key, value) for key, value in values.items() if key not in _TABLES]
    for table in _TABLES:
        if table in values:
            lines += [f"\n[{table}]\n", *(_line(term, weight) for term, weight in values[table].items())]
    return "".join(lines)


def _line(key: str, value: Any) -> str:
    # JSON's numbers, strings, true and false are TOML's too, but for its pairs of escapes and a bare DEL.
    return f"{key} = {json.dumps(value, ensure_ascii=False)}\n".replace("\x7f", "\\u007f")
