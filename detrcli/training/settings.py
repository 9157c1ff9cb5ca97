"""All that a training can be told, with its defaults; from TOML files and KEY=VALUE. No torch."""

import difflib
import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from detrcli.config import Config, LossConfig, MatchingConfig
from detrcli.errors import UsageError

NONE = "none"
DEFAULT_MODEL = "detr-r50"


def _key(default: Any, meaning: str, least: float | None = None, below: float | None = None) -> Any:
    """A setting; `least` is allowed, `below` is not."""
    return field(default=default, metadata={"meaning": meaning, "least": least, "below": below})


@dataclass(frozen=True)
class Settings(Config):
    """The published recipe, unless told otherwise. None stands for what the meaning says of it."""

    # What is trained.
    model: str | None = _key(
        None, "the model; default: what the weights are, else detr-r50 with its published weights"
    )
    weights: str | None = _key(
        None, "what to start from; `none` for scratch; default: the model's own weights"
    )
    backbone_weights: str | None = _key(
        None, "from scratch: `imagenet`, `none` or a FILE; default: imagenet where there are such"
    )
    norm: Literal["frozen", "batch", "group"] | None = _key(
        None, "from scratch: normalisation in the backbone; default: the model's"
    )
    freeze: Literal["none", "stem", "all"] | None = _key(
        None,
        "what of the backbone stays as it is; default: stem and first stage, none if the backbone is random",
    )
    queries: int | None = _key(None, "object queries; default: as the weights or the model have them", 1)
    dropout: float | None = _key(None, "in the transformer; default: the model's, published 0.1", 0, 1)

    # What it sees.
    size: int | None = _key(None, "shorter side of the input; default: the weights' or the model's", 1)
    max_size: int | None = _key(None, "longest side of the input; default: grows with size", 1)
    augmentation: Literal["published", "flip", "none"] = _key(
        "published", "flips, 11 scales and crops; `flip`: flips alone, all at size; or `none`"
    )
    batch_size: int = _key(2, "pictures at a time, of each process", 1)
    accumulate: int = _key(1, "batches of a process that make one step", 1)
    workers: int | None = _key(None, "processes that load pictures; default: by the machine", 0)

    # How it learns.
    epochs: int = _key(50, "how often every picture is seen", 1)
    lr: float = _key(1e-4, "learning rate", 0)
    lr_backbone: float | None = _key(
        None, "that of the backbone; default: a tenth of lr, or lr if the backbone is random", 0
    )
    schedule: Literal["step", "cosine"] = _key("step", "a tenth of lr after two thirds; or a cosine to 0")
    warmup: int = _key(0, "steps in which lr rises from 0", 0)
    weight_decay: float = _key(1e-4, "of AdamW", 0)
    clip: float = _key(0.1, "greatest norm of the gradient; 0 for any", 0)
    ema: float = _key(
        0.0, "decay of a running mean of the weights, which is then evaluated and kept; 0: none", 0, 1
    )
    precision: Literal["fp32", "bf16", "fp16"] = _key(
        "fp32", "of the network; boxes, matching and losses are float32 always"
    )
    matching: Literal["each", "last"] = _key(
        MatchingConfig.matching, "each decoder layer by itself, or all by the last one's pairs"
    )
    class_cost: Literal["probability", "log"] = _key(MatchingConfig.class_cost, "-p as published, or -log p")
    cost_class: float = _key(MatchingConfig.cost_class, "weight of the class in the matching cost", 0)
    cost_l1: float = _key(MatchingConfig.cost_l1, "weight of the boxes' L1 distance in it", 0)
    cost_giou: float = _key(MatchingConfig.cost_giou, "weight of the generalised IoU in it", 0)
    loss_class: float = _key(LossConfig.loss_class, "weight of the class in the loss", 0)
    loss_l1: float = _key(LossConfig.loss_l1, "weight of the boxes' L1 distance in it", 0)
    loss_giou: float = _key(LossConfig.loss_giou, "weight of the generalised IoU in it", 0)
    no_object: float = _key(LossConfig.no_object, "weight of `no object` in the cross-entropy", 0)
    seed: int = _key(0, "of everything that is random", 0, 2**63)

    # What it keeps.
    eval_every: int = _key(1, "epochs between evaluations; the last epoch always has one", 1)
    patience: int = _key(0, "evaluations without a better AP after which it ends; 0: never", 0)
    save_every: float = _key(15.0, "minutes between saved states; one comes with every epoch too", 0)
    tensorboard: bool = _key(False, "write events for TensorBoard (extra `tensorboard`)")

    def __post_init__(self) -> None:
        super().__post_init__()
        for one in fields(self):
            value, least, below = getattr(self, one.name), one.metadata["least"], one.metadata["below"]
            if value is None or isinstance(value, bool | str):
                continue
            if (
                not math.isfinite(value)
                or (least is not None and value < least)
                or (below is not None and value >= below)
            ):
                bounds = f"at least {least}" + (f" and below {below}" if below is not None else "")
                raise UsageError(f"{one.name} = {value}: it is {bounds}.")

    @property
    def matching_config(self) -> MatchingConfig:
        """The part that decides on the pairs."""
        return MatchingConfig(self.matching, self.class_cost, self.cost_class, self.cost_l1, self.cost_giou)

    @property
    def loss_config(self) -> LossConfig:
        """The part that weighs the loss."""
        return LossConfig(self.loss_class, self.loss_l1, self.loss_giou, self.no_object)


def settings(
    file: Path | None = None, options: Mapping[str, Any] | None = None, pairs: Iterable[str] = ()
) -> Settings:
    """Settings from a TOML file, over these the options that were given, over these KEY=VALUE pairs."""
    values: dict[str, Any] = _read(file) if file else {}
    values |= {key: value for key, value in (options or {}).items() if value is not None}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"--set {pair}: it is KEY=VALUE.")
        values[key.strip()] = _value(text.strip())
    return of(values)


def of(values: Mapping[str, Any]) -> Settings:
    """Settings from plain values; an unknown key or a value of another kind is an error that helps."""
    hints = get_type_hints(Settings)
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]}?" if near else f"There is {', '.join(hints)}."
            raise UsageError(f"There is no setting {key!r}. {hint}")
    return Settings(**{key: _of_kind(key, value, hints[key]) for key, value in values.items()})


def _of_kind(key: str, value: Any, hint: Any) -> Any:
    kind = hint
    if NoneType in get_args(hint):  # `int | None` is int where there is a value
        if value is None:
            return None
        kind = next(kind for kind in get_args(hint) if kind is not NoneType)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            choices = ", ".join(map(repr, get_args(kind)))
            raise UsageError(f"{key} = {value!r} is not known: it is one of {choices}.")
        return value
    if kind is float and type(value) is int:
        return float(value)
    if kind is str and type(value) in (int, float):
        return str(value)  # a file or folder whose name is a number
    if type(value) is not kind:
        name = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}[kind]
        raise UsageError(f"{key} = {value!r}: it is {name}.")
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


def to_toml(chosen: Settings) -> str:
    """A file that gives the same settings again; what is None is left out."""
    # JSON's numbers, strings, true and false are TOML's too, but for its pairs of escapes and a bare DEL.
    return "".join(
        f"{key} = {json.dumps(value, ensure_ascii=False)}\n".replace("\x7f", "\\u007f")
        for key, value in asdict(chosen).items()
        if value is not None
    )
