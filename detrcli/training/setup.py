"""What is trained on what: the data as training takes it, and the weights that it starts from."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detrcli.architectures import Preset, preset
from detrcli.architectures.architecture import Architecture, DataFacts
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.fit import fit, with_mask_head
from detrcli.checkpoints.formats import backbone
from detrcli.checkpoints.formats.header import from_header
from detrcli.checkpoints.load import load_checkpoint
from detrcli.checkpoints.registry import PUBLISHED
from detrcli.config import ModelConfig, Preprocessing
from detrcli.data.annotations import Annotations, annotate, classes_in_report
from detrcli.data.checks import Split
from detrcli.data.contents import marks_of
from detrcli.data.examine import DatasetReport
from detrcli.errors import DataError, UsageError
from detrcli.evaluation.truth import Truth, truth_of
from detrcli.model.detection_transformer import Frozen
from detrcli.reporter import SILENT, Reporter
from detrcli.structures import Classes
from detrcli.system import distributed
from detrcli.system.text import preview
from detrcli.training.order import for_other_processes
from detrcli.training.settings import DEFAULT_MODEL, FROM_SCRATCH, Settings, make_settings

# What is said of a recipe that goes by the model or the data.
CHOSEN = (
    "size", "queries", "batch_size", "epochs", "lr", "lr_backbone", "weight_decay", "grad_clip", "ema", "freeze",
)  # fmt: skip
ENOUGH = 20_000  # pictures from which training from scratch is not hopeless


@dataclass(frozen=True)
class Data:
    """A data set as training takes it."""

    name: str  # what the user called it
    classes: Classes
    train: Annotations
    val: Split
    truth: Truth  # of val
    train_split: Split  # that `train` is taken from

    def with_masks(self) -> "Data":
        """The same with the masks of the objects that are trained on; a DataError where one has none."""
        return replace(self, train=annotate(self.train_split, self.classes, masks=True))

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the pictures, boxes, classes and masks that are trained on."""
        digest = hashlib.sha256(repr((self.classes.ids.tolist(), self.classes.names.tolist())).encode())
        if self.classes.things is not None:
            digest.update(self.classes.things.tobytes())
        train = self.train
        for tensor in (train.image_ids, train.ends, train.boxes, train.labels, train.outlines, train.outline_ends):
            if tensor is not None:
                digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def marks(self) -> Tensor:
        """A number for the contents of each picture that is trained on, (I,)."""
        return marks_of(self.train)

    def check_same(self, fingerprint: str, marks: Tensor) -> None:
        """A DataError where it is not what it was when these were taken of it."""
        changed = "its pictures, boxes, classes or masks are not those that this run was begun with"
        if fingerprint == self.fingerprint:
            if torch.equal(marks, self.marks):
                return
            others = (marks != self.marks).nonzero().flatten().tolist()
            first = self.train.path(others[0])
            changed = f"{len(others):,} pictures have changed since this run was begun: {first} and more"
            if len(others) == 1:
                changed = f"{first} has changed since this run was begun"
        raise DataError(f"{self.name}: {changed}.\nStart a new run from its weights: --weights RUN.")


def prepare_data(name: str, examined: DatasetReport) -> Data:
    """What training takes of a data set that was looked through."""
    if "train" not in examined.splits:
        raise DataError(f"{name}: there is no train split; there is {', '.join(examined.splits)}.")
    classes = classes_in_report(examined)
    train, val = examined.splits["train"], examined.splits["val"]
    return Data(name, classes, annotate(train, classes), val, truth_of(val), train)


@dataclass(frozen=True)
class Initial:
    """What a training starts from: settings, weights, and how they came about."""

    settings: Settings
    checkpoint: Checkpoint
    fresh_backbone: bool
    freeze: Frozen  # what stays as it is
    notes: Sequence[str]  # lines for the user


def initialize(given: Mapping[str, Any], classes: Classes, facts: DataFacts, reporter: Reporter = SILENT) -> Initial:
    """The weights that a user's settings ask for, fitted to the classes, with the recipe of their model for the rest.

    The seed decides what is fresh.
    """
    asked = make_settings(given)
    model = asked.model or DEFAULT_MODEL
    preset(model)  # which must be there
    source = asked.weights or (model if model in PUBLISHED else FROM_SCRATCH)
    if source == FROM_SCRATCH:
        initial = _from_scratch(model, given, classes, facts, reporter)
    else:
        initial = _from_weights(source, given, classes, facts, reporter)
    settings, checkpoint = initial.settings, initial.checkpoint
    architecture = checkpoint.architecture
    checkpoint = replace(
        checkpoint,
        config=architecture.changed(checkpoint.config, dropout=settings.dropout),
        preprocessing=_sized(checkpoint.preprocessing, settings),
        loss=settings.loss_config(architecture.loss),
    )
    return replace(initial, checkpoint=checkpoint)


def resumed(state: Mapping[str, Any], data: Data) -> Initial:
    """What a saved run started from; its data must be what it was."""
    settings = make_settings(state["settings"])
    checkpoint = from_header(state["weights"], state["model"], "the state")
    learned = data.with_masks() if checkpoint.architecture.detector is not None else data
    learned.check_same(state["fingerprint"], state["marks"])
    notes, before, now = [], len(state["sums"]), distributed.world_size()
    if now != before:
        batch_size, accumulate = for_other_processes(settings.batch_size, settings.accumulate, before, now)
        settings = replace(settings, batch_size=batch_size, accumulate=accumulate)
        notes = [
            f"begun by {before} processes, and {now} go on: with batch_size = {batch_size} and "
            f"accumulate = {accumulate} the steps see the same pictures, though their numbers are not equal to the "
            "last bit"
        ]
    return Initial(settings, checkpoint, state["fresh_backbone"], state["freeze"], notes=notes)


def _from_weights(
    source: str, given: Mapping[str, Any], classes: Classes, facts: DataFacts, reporter: Reporter
) -> Initial:
    asked = make_settings(given)
    for key in ("norm", "backbone_weights"):
        if getattr(asked, key) is not None:
            raise UsageError(f"{key} is for training from scratch (--weights none); {source} brings its own.")
    loaded, notes = _load(source, asked, reporter)
    settings = make_settings(given, loaded.architecture.recipe(loaded.config, facts))
    torch.manual_seed(settings.seed)
    fitted = fit(loaded, classes, settings.queries)
    kept, fresh, dropped = (
        f"{len(names)} ({preview(names, 6)})" if names else "none"
        for names in (fitted.kept, fitted.fresh, fitted.dropped)
    )
    return Initial(
        settings,
        fitted.checkpoint,
        fresh_backbone=False,
        freeze=settings.freeze or "stem",
        notes=[
            *notes,
            f"weights: {source}: loaded but for the class head, {fitted.queries}",
            f"class head: kept by name: {kept}; starting anew: {fresh}; dropped: {dropped}",
            *_recipe_note(loaded.architecture, loaded.config, given, facts),
        ],
    )


def _load(source: str, asked: Settings, reporter: Reporter) -> tuple[Checkpoint, list[str]]:
    """The weights, with a fresh mask head where such a model is asked for and they have none; and notes of that."""
    detector = asked.model and preset(asked.model).architecture.detector
    if asked.model and detector:
        loaded = load_checkpoint(source, reporter=reporter)
        if loaded.architecture is detector:
            torch.manual_seed(asked.seed)
            return with_mask_head(loaded, asked.model), [f"{source} has no mask head: a new one is put on it"]
    return load_checkpoint(source, model=asked.model, reporter=reporter), []


def _from_scratch(
    model: str, given: Mapping[str, Any], classes: Classes, facts: DataFacts, reporter: Reporter
) -> Initial:
    architecture, config = preset(model)
    settings = make_settings(given, architecture.recipe(config, facts))
    torch.manual_seed(settings.seed)
    config = architecture.changed(config, classes=len(classes), queries=settings.queries, norm=settings.norm)
    source = settings.backbone_weights or (
        backbone.IMAGENET if backbone.has_imagenet_weights(Preset(architecture, config)) else FROM_SCRATCH
    )
    norm: str | None = getattr(config, "norm", None)
    if source == FROM_SCRATCH and norm == "frozen":
        raise UsageError(
            "A backbone of random weights does not train with norm = frozen: its batch norm never learns the "
            "statistics.\nGive --set norm=group or norm=batch, or --set backbone_weights=imagenet."
        )
    tensors = architecture.build(config).state_dict()
    if source != FROM_SCRATCH:
        tensors = {**tensors, **backbone.backbone_weights(Preset(architecture, config), source, reporter)}
    start = source if source != FROM_SCRATCH else "random"
    notes = [f"{model} from scratch, backbone: {start}" + (f", norm: {norm}" if norm else "")]
    notes += _recipe_note(architecture, config, given, facts)
    if model in PUBLISHED and facts.images < ENOUGH:
        notes.append(
            f"warning: {facts.images:,} pictures are few for training from scratch: the published models took "
            f"118,287, 300 to 500 times over; --weights {model} starts from one of them"
        )
    return Initial(
        settings,
        Checkpoint(
            f"{model} from scratch",
            architecture,
            config,
            tensors,
            classes,
            architecture.preprocessing,
            architecture.loss,
        ),
        fresh_backbone=source == FROM_SCRATCH,
        freeze=settings.freeze or ("none" if source == FROM_SCRATCH else "stem"),
        notes=notes,
    )


def _recipe_note(
    architecture: Architecture[Any], config: ModelConfig, given: Mapping[str, Any], facts: DataFacts
) -> list[str]:
    """What was chosen by the data and not by the user."""
    if not architecture.recipe_uses_data:
        return []
    chosen = {
        key: value for key, value in architecture.recipe(config, facts).items() if key in CHOSEN and key not in given
    }
    return [f"for {facts}: " + ", ".join(f"{key} {value}" for key, value in chosen.items())] if chosen else []


def facts_of(train: Annotations) -> DataFacts:
    """What a recipe may go by, of the pictures that are trained on."""
    shorter, longer = (int(sides.float().median()) for sides in (train.sizes.amin(1), train.sizes.amax(1)))
    sides = (train.boxes[:, 2:] - train.boxes[:, :2]).amin(1)  # (N,)
    small = round(float(np.quantile(sides, 0.25))) if len(sides) else DataFacts.small
    return DataFacts(len(train), shorter, longer, int(train.counts.max()), small)


def _sized(theirs: Preprocessing, settings: Settings) -> Preprocessing:
    """Where only the shorter side is given, the longer grows with it."""
    rule = theirs.resize
    if settings.size is not None:
        rule = rule.grown(settings.size)
    if settings.max_size is not None:
        rule = rule.with_size(None, settings.max_size)
    return replace(theirs, resize=rule)
