"""The start of a training: the data to train on, and the weights to start from."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detrcli.architectures import Preset, preset
from detrcli.architectures.architecture import DataFacts
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.fit import fit, with_mask_head
from detrcli.checkpoints.formats import torchvision
from detrcli.checkpoints.formats.header import from_header, header_of
from detrcli.checkpoints.load import load_checkpoint, named_preset
from detrcli.checkpoints.registry import DEFAULT, PUBLISHED
from detrcli.data.annotations import Annotations, annotate, classes_in_report, image_hashes
from detrcli.data.checks import Split
from detrcli.data.examine import DatasetReport
from detrcli.errors import DataError, UsageError
from detrcli.evaluation.truth import Truth, truth_of
from detrcli.messages import argument
from detrcli.model.detection_transformer import Frozen
from detrcli.reporter import SILENT, Reporter
from detrcli.structures import Classes
from detrcli.system import distributed
from detrcli.system.text import preview
from detrcli.training.order import for_other_processes
from detrcli.training.settings import FROM_SCRATCH, Settings, make_settings, starting_weights

# Settings of a data-dependent recipe that are reported.
REPORTED_SETTINGS = (
    "size", "queries", "batch_size", "epochs", "lr", "lr_backbone", "weight_decay", "grad_clip", "ema", "freeze",
)  # fmt: skip
FEW_IMAGES = 20_000  # below which a published model can hardly be trained from scratch


@dataclass(frozen=True)
class Data:
    """The data of a training."""

    name: str  # as given by the user
    classes: Classes
    train: Annotations
    val: Split
    truth: Truth  # of val
    train_split: Split  # the split of `train`

    def with_masks(self) -> "Data":
        """Return the data with the masks of training objects. Raises DataError if an object has none."""
        if self.train.segmentations is not None:
            return self
        return replace(self, train=annotate(self.train_split, self.classes, masks=True))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the images, boxes, classes and masks to train on."""
        digest = hashlib.sha256(repr((self.classes.ids.tolist(), self.classes.names.tolist())).encode())
        if self.classes.things is not None:
            digest.update(self.classes.things.tobytes())
        t = self.train
        texts = () if t.segmentations is None else (t.segmentations.joined, t.segmentations.ends)
        for tensor in (t.image_ids, t.ends, t.boxes, t.labels, *texts):
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def marks(self) -> Tensor:
        return image_hashes(self.train)  # (I,), of the contents of each file

    def check_same(self, fingerprint: str, marks: Tensor) -> None:
        """Raise DataError if the data has changed since these were computed."""
        changed = "its images, boxes, classes or masks have changed since this run was started"
        if fingerprint == self.fingerprint:
            if torch.equal(marks, self.marks):
                return
            indices = (marks != self.marks).nonzero().flatten().tolist()
            more = f" and {len(indices) - 1:,} more images" if len(indices) > 1 else ""
            changed = f"{self.train.path(indices[0])}{more} changed since this run was started"
        raise DataError(f"{self.name}: {changed}.\nStart a new run from its weights: {argument('weights', 'RUN')}.")


def prepare_data(name: str, examined: DatasetReport) -> Data:
    if "train" not in examined.splits:
        raise DataError(f"{name}: no train split. It has {', '.join(examined.splits)}.")
    classes = classes_in_report(examined)
    train, val = examined.splits["train"], examined.splits["val"]
    return Data(name, classes, annotate(train, classes), val, truth_of(val), train)


def facts_of(train: Annotations) -> DataFacts:
    """Return the facts about the data that a recipe may depend on."""
    shorter, longer = (int(sides.float().median()) for sides in (train.sizes.amin(1), train.sizes.amax(1)))
    sides = (train.boxes[:, 2:] - train.boxes[:, :2]).amin(1)  # (N,)
    small = round(float(np.quantile(sides, 0.25))) if len(sides) else DataFacts.small
    return DataFacts(len(train), shorter, longer, int(train.counts.max()), small)


@dataclass(frozen=True)
class Initial:
    """The start of a training: settings and weights."""

    settings: Settings
    checkpoint: Checkpoint
    fresh_backbone: bool
    freeze: Frozen
    notes: Sequence[str]  # for the user

    def document(self, data: Data) -> dict[str, Any]:  # the constant part of the training state
        return {
            "settings": asdict(self.settings),
            "fingerprint": data.fingerprint,
            "marks": data.marks,
            "weights": header_of(self.checkpoint),
            "fresh_backbone": self.fresh_backbone,
            "freeze": self.freeze,
        }


def initialize(given: Mapping[str, Any], classes: Classes, facts: DataFacts, reporter: Reporter = SILENT) -> Initial:
    """Load the requested weights, or create them from the seed, for the classes of the data.

    Settings that are not `given` come from the recipe of the model.
    """
    requested = make_settings(given)
    model = requested.model or DEFAULT
    architecture, config = named_preset(model)
    source = starting_weights(requested)
    notes: list[str] = []
    loaded = None
    if source != FROM_SCRATCH:
        loaded, notes = _load(source, requested, reporter)
        architecture, config = loaded.architecture, loaded.config
    settings = make_settings(given, architecture.recipe(config, facts))
    torch.manual_seed(settings.seed)
    fresh_backbone = False
    if loaded is None:
        checkpoint, backbone_source = _from_scratch(model, settings, classes, reporter)
        checkpoint = checkpoint.resized(settings.size, settings.max_size, in_proportion=True)
        fresh_backbone = backbone_source == FROM_SCRATCH
        norm = f", norm: {name}" if (name := getattr(checkpoint.config, "norm", None)) else ""
        notes.append(f"{model} from scratch, backbone: {'random' if fresh_backbone else backbone_source}{norm}")
    else:
        # The size first, on which the possible number of queries may depend.
        resized = loaded.resized(settings.size, settings.max_size, in_proportion=True)
        fitted = fit(resized, classes, settings.queries)
        checkpoint = fitted.checkpoint
        kept, fresh, dropped = (
            f"{len(names)} ({preview(names, 6)})" if names else "none"
            for names in (fitted.kept, fitted.fresh, fitted.dropped)
        )
        notes.append(f"weights: {source}: all but the class head, {fitted.queries}")
        notes.append(f"classes: kept by name: {kept}; new: {fresh}; dropped: {dropped}")
    if architecture.recipe_uses_data:
        recipe = architecture.recipe(config, facts).items()
        chosen = [f"{key} {value}" for key, value in recipe if key in REPORTED_SETTINGS and key not in given]
        notes += [f"settings for {facts}: {', '.join(chosen)}"] if chosen else []
    if loaded is None and model in PUBLISHED and facts.images < FEW_IMAGES:
        notes.append(
            f"warning: {facts.images:,} images are few for training from scratch: the published models used 118,287 "
            f"images for 300 to 500 epochs. {argument('weights', model)} starts from such a model"
        )
    checkpoint = replace(
        checkpoint,
        config=architecture.changed(checkpoint.config, dropout=settings.dropout),
        loss=settings.loss_config(architecture.loss),
    )
    freeze = settings.freeze or ("none" if fresh_backbone else "stem")
    return Initial(settings, checkpoint, fresh_backbone, freeze, notes)


def _load(source: str, requested: Settings, reporter: Reporter) -> tuple[Checkpoint, list[str]]:
    """Load weights, with a new mask head if the requested model has one and the weights do not."""
    for key in ("norm", "backbone_weights"):
        if getattr(requested, key) is not None:
            raise UsageError(f"{argument(key)}: only for training from scratch ({argument('weights', FROM_SCRATCH)}).")
    detector = requested.model and preset(requested.model).architecture.detector
    if requested.model and detector:
        checkpoint = load_checkpoint(source, reporter=reporter)
        if checkpoint.architecture is detector:
            torch.manual_seed(requested.seed)
            return with_mask_head(checkpoint, requested.model), [f"{source} has no mask head: a new one is added"]
    return load_checkpoint(source, model=requested.model, reporter=reporter), []


def _from_scratch(model: str, settings: Settings, classes: Classes, reporter: Reporter) -> tuple[Checkpoint, str]:
    """Return new weights, and the source of their backbone."""
    architecture, config = preset(model)
    config = architecture.changed(config, classes=len(classes), queries=settings.queries, norm=settings.norm)
    source = settings.backbone_weights
    if source is None:
        pretrained = torchvision.has_imagenet_weights(Preset(architecture, config))
        source = torchvision.IMAGENET if pretrained else FROM_SCRATCH
    if source == FROM_SCRATCH and getattr(config, "norm", None) == "frozen":
        raise UsageError(
            "A random backbone cannot be trained with frozen batch norm, whose statistics are never learned.\n"
            f"Use {argument('norm', 'group')} or {argument('norm', 'batch')}, or "
            f"{argument('backbone_weights', 'imagenet')}."
        )
    tensors = architecture.build(config).state_dict()
    if source != FROM_SCRATCH:
        tensors = {**tensors, **torchvision.backbone_weights(Preset(architecture, config), source, reporter)}
    name, preprocessing, loss = f"{model} from scratch", architecture.preprocessing, architecture.loss
    return Checkpoint(name, architecture, config, tensors, classes, preprocessing, loss), source


def resumed(state: Mapping[str, Any]) -> Initial:
    """Return the start of a saved training."""
    settings = make_settings(state["settings"])
    notes, before, now = [], len(state["sums"]), distributed.world_size()
    if now != before:
        batch_size, accumulate = for_other_processes(settings.batch_size, settings.accumulate, before, now)
        settings = replace(settings, batch_size=batch_size, accumulate=accumulate)
        notes = [
            f"started by {before} processes, resumed by {now}: with batch_size = {batch_size} and accumulate = "
            f"{accumulate}, steps use the same images; results are equal but for rounding"
        ]
    checkpoint = from_header(state["weights"], state["model"], "the state")
    return Initial(settings, checkpoint, state["fresh_backbone"], state["freeze"], notes)
