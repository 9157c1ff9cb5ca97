"""What is trained on what: the data as training takes it, and the weights that it starts from."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from detrcli.config import Preprocessing
from detrcli.data.annotations import Annotations, annotate, classes_of
from detrcli.data.checks import Split
from detrcli.data.examine import DatasetReport
from detrcli.errors import DataError, UsageError
from detrcli.evaluation.truth import Truth, truth_of
from detrcli.model.backbone import Part
from detrcli.structures import Classes
from detrcli.system.text import some
from detrcli.training.settings import DEFAULT_MODEL, NONE, Settings
from detrcli.variants import VARIANTS, build, preprocessing
from detrcli.weights.download import Progress, no_progress
from detrcli.weights.fit import fit
from detrcli.weights.formats import backbone, native
from detrcli.weights.load import load_weights
from detrcli.weights.registry import PUBLISHED
from detrcli.weights.weights import Weights

ENOUGH = 20_000  # pictures from which training from scratch is not hopeless


@dataclass(frozen=True)
class Data:
    """A data set as training takes it."""

    name: str  # what the user called it
    classes: Classes
    train: Annotations
    val: Split
    truth: Truth  # of val

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the pictures, boxes and classes that are trained on."""
        digest = hashlib.sha256(repr((self.classes.ids.tolist(), self.classes.names.tolist())).encode())
        for tensor in (self.train.image_ids, self.train.ends, self.train.boxes, self.train.labels):
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()[:16]


def take(name: str, examined: DatasetReport) -> Data:
    """What training takes of a data set that was looked through."""
    if "train" not in examined.splits:
        raise DataError(f"{name}: there is no train split; there is {', '.join(examined.splits)}.")
    classes = classes_of(examined)
    train = annotate(examined.splits["train"], classes)
    val = examined.splits["val"]
    return Data(name, classes, train, val, truth_of(val))


@dataclass(frozen=True)
class Start:
    """Weights to start from, and how they came about."""

    weights: Weights
    fresh_backbone: bool
    freeze: Part  # what of the backbone stays as it is
    said: Sequence[str]  # lines for the user


def begin(chosen: Settings, classes: Classes, pictures: int, progress: Progress = no_progress) -> Start:
    """The weights that the settings ask for, fitted to the classes. Torch's random state decides what is fresh."""
    torch.manual_seed(chosen.seed)
    model = chosen.model or DEFAULT_MODEL
    if model not in VARIANTS:
        raise UsageError(f"--model {model}: there is {', '.join(VARIANTS)}.")
    source = chosen.weights or (model if model in PUBLISHED else NONE)
    if source == NONE:
        begun = _from_scratch(model, chosen, classes, pictures, progress)
    else:
        begun = _from_weights(source, chosen, classes, progress)
    weights = begun.weights
    if chosen.dropout is not None:
        weights = replace(weights, config=replace(weights.config, dropout=chosen.dropout))
    return replace(begun, weights=replace(weights, preprocessing=_sized(weights.preprocessing, chosen)))


def resumed(state: Mapping[str, Any], data: Data) -> Start:
    """What a saved run started from; its data must be what it was."""
    if state["fingerprint"] != data.fingerprint:
        raise DataError(
            f"{data.name}: its pictures, boxes or classes are not those that this run was begun with.\n"
            "Start a new run from its weights: --weights RUN."
        )
    weights = native.from_header(state["weights"], state["model"], "the state")
    return Start(weights, state["fresh_backbone"], state["freeze"], said=[])


def _from_weights(source: str, chosen: Settings, classes: Classes, progress: Progress) -> Start:
    for key in ("norm", "backbone_weights"):
        if getattr(chosen, key) is not None:
            raise UsageError(f"{key} is for training from scratch (--weights none); {source} brings its own.")
    loaded = load_weights(source, model=chosen.model, progress=progress)
    fitted = fit(loaded, classes, chosen.queries)
    kept, fresh, dropped = (
        f"{len(names)} ({some(names, 6)})" if names else "none"
        for names in (fitted.kept, fitted.fresh, fitted.dropped)
    )
    return Start(
        fitted.weights,
        fresh_backbone=False,
        freeze=chosen.freeze or "stem",
        said=[
            f"weights: {source}: loaded but for the class head, {fitted.queries}",
            f"class head: kept by name: {kept}; starting anew: {fresh}; dropped: {dropped}",
        ],
    )


def _from_scratch(model: str, chosen: Settings, classes: Classes, pictures: int, progress: Progress) -> Start:
    config = VARIANTS[model]
    config = replace(
        config,
        classes=len(classes),
        queries=chosen.queries or config.queries,
        norm=chosen.norm or config.norm,
    )
    source = chosen.backbone_weights or (backbone.IMAGENET if backbone.is_there(config) else NONE)
    if source == NONE and config.norm == "frozen":
        raise UsageError(
            "A backbone of random weights does not train with norm = frozen: its batch norm never learns the "
            "statistics.\nGive --set norm=group or norm=batch, or --set backbone_weights=imagenet."
        )
    tensors = build(config).state_dict()
    if source != NONE:
        tensors = {**tensors, **backbone.backbone_weights(config, source, progress)}
    said = [f"{model} from scratch, backbone: {source if source != NONE else 'random'}, norm: {config.norm}"]
    if model in PUBLISHED and pictures < ENOUGH:
        said.append(
            f"warning: {pictures:,} pictures are few for training from scratch: the published models took "
            f"118,287, 300 to 500 times over; --weights {model} starts from one of them"
        )
    return Start(
        Weights(f"{model} from scratch", config, tensors, classes, preprocessing(config)),
        fresh_backbone=source == NONE,
        freeze=chosen.freeze or ("none" if source == NONE else "stem"),
        said=said,
    )


def _sized(theirs: Preprocessing, chosen: Settings) -> Preprocessing:
    """Where only the shorter side is given, the longer grows with it."""
    size = chosen.size or theirs.size
    grown = round(theirs.max_size * size / theirs.size)
    return replace(theirs, size=size, max_size=chosen.max_size or grown)
