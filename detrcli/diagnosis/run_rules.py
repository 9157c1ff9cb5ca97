"""Rules about a training: its input, its settings compared with the recipe of its model, and its curves."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.data.dataset import DetectionDataset, Example
from detrcli.diagnosis.finding import BROKEN, IMPOSSIBLE, SCARCE, SETTINGS, Finding
from detrcli.messages import argument
from detrcli.training.settings import FROM_SCRATCH, Settings, make_settings
from detrcli.training.setup import Data, facts_of

SAMPLED_IMAGES = 48  # of the training split
MIN_SIDE = 8  # pixels in the network's input; below this, little is left of an object
Row = Mapping[str, float]


@dataclass(frozen=True)
class RunFacts:
    """A training that ended or was stopped."""

    settings: Settings
    checkpoint: Checkpoint  # the best, or else the last
    data: Data
    rows: Sequence[Row]  # of metrics.csv
    moved: np.ndarray  # (E,), the share of objects matched to another query than at the previous evaluation
    diverged: bool

    @property
    def steps(self) -> int:
        """The number of steps in all completed epochs."""
        images = self.settings.batch_size * self.settings.accumulate
        return max(1, len(self.data.train) // images) * max(1, len(self.rows))

    @cached_property
    def recipe(self) -> Settings:
        """The settings of the model's own recipe for this data."""
        checkpoint = self.checkpoint
        return make_settings({}, checkpoint.architecture.recipe(checkpoint.config, facts_of(self.data.train)))

    def examples(self, augmentation: Any = "none") -> list[Example]:
        """Return some training examples, evenly spaced in the split."""
        dataset = DetectionDataset(self.data.train, self.checkpoint.preprocessing, augmentation=augmentation)
        indices = np.linspace(0, len(dataset) - 1, min(SAMPLED_IMAGES, len(dataset))).astype(int).tolist()
        return [example for i in indices if isinstance(example := dataset[0, i], Example)]


def run_findings(run: RunFacts) -> Iterator[Finding]:
    """Yield the findings about a training."""
    yield from _input_findings(run)
    yield from _settings_findings(run)
    yield from _curve_findings(run)


def _input_findings(run: RunFacts) -> Iterator[Finding]:
    most, queries = int(run.data.train.counts.max()), run.checkpoint.config.queries
    if most > queries:
        share = float((run.data.train.counts > queries).float().mean())
        evidence = f"The model has {queries}, and {share:.0%} of the images have more objects, up to {most}."
        remedy = f"Use {argument('queries', 2 * most)}."
        yield Finding("There are too few queries.", evidence, remedy, IMPOSSIBLE + 6 if share > 0.05 else SETTINGS)
    examples = run.examples()
    if not examples:
        return
    values = torch.stack([torch.stack([example.pixels.mean(), example.pixels.std()]) for example in examples])
    mean, std = values.mean(0).tolist()
    if abs(mean) > 4 or not 0.1 < std < 5:
        evidence = f"Its input has a mean of {mean:.3g} and a standard deviation of {std:.3g} instead of about 0 and 1."
        remedy = "Check mean and std of the weights, which are for pixel values from 0 to 1."
        yield Finding("The images are normalized differently than the network expects.", evidence, remedy, BROKEN + 6)
    # shape[:0:-1] is (width, height)
    sides = torch.cat(
        [example.target.boxes[:, 2:] * torch.tensor(example.pixels.shape[:0:-1]) for example in examples]
    ).amin(1)  # (n,), the shorter side of each object in pixels of the input
    if len(sides) and (median := float(sides.median())) < MIN_SIDE:
        height, width = examples[0].pixels.shape[1:]
        evidence = f"Half of them are smaller than {median:.0f} pixels in an input of {width} x {height}."
        remedy = f"Use a larger {argument('size')}; it was {min(height, width)}."
        yield Finding("The objects are too small in the network's input.", evidence, remedy, IMPOSSIBLE + 3)
    # With `strong`, half of the images are mosaics with more objects.
    if (augmentation := run.settings.augmentation) not in ("none", "strong"):
        before = sum(len(example.target) for example in examples)
        after = sum(len(example.target) for example in run.examples(augmentation))
        if before and after < 0.7 * before:
            evidence = f"{after} of {before} objects are left in {len(examples)} images; augmentation = {augmentation}."
            remedy = f"Use {argument('augmentation', 'flip')}."
            yield Finding("The augmentation removes objects.", evidence, remedy, SETTINGS + 6)


def _settings_findings(run: RunFacts) -> Iterator[Finding]:
    s, recipe, usual = run.settings, run.recipe, run.checkpoint.architecture.loss
    if s.freeze == "all" and s.weights == FROM_SCRATCH:
        evidence = "freeze = all, and the training started from scratch."
        remedy = f"Leave out {argument('freeze')}, or start from trained weights."
        yield Finding("The frozen backbone has random weights.", evidence, remedy, IMPOSSIBLE + 7)
    use_lr = f"Use {argument('lr', f'{recipe.lr:.2g}')}"
    rates = f"It is {s.lr:g}; the recipe of this model for this data has {recipe.lr:.2g}."
    if run.diverged:
        evidence = f"The loss was not finite. The learning rate is {s.lr:g}; the recipe has {recipe.lr:g}."
        yield Finding("The training diverged.", evidence, f"{use_lr} or less.", BROKEN + 5)
    elif s.lr >= 8 * recipe.lr:
        yield Finding("The learning rate is too high.", rates, f"{use_lr}.", IMPOSSIBLE + 5)
    elif s.lr <= recipe.lr / 15:
        yield Finding("The learning rate is too low.", rates, f"{use_lr}.", IMPOSSIBLE + 4)
    # The recipe's own warmup is too long only if the training is too short, which is another finding.
    if s.warmup > 0.5 * run.steps and s.warmup > max(4, recipe.warmup):
        evidence = f"warmup = {s.warmup:,} steps, of {run.steps:,} steps in total."
        remedy = f"Use {argument('warmup', run.steps // 20)}."
        yield Finding("The learning rate was still rising at the end.", evidence, remedy, IMPOSSIBLE + 1)
    if (s.dropout or 0) > 0.5:
        finding = "Dropout removes most of the activations of the transformer."
        remedy = f"Leave out {argument('dropout')}, or use {argument('dropout', 0.1)}."
        yield Finding(finding, f"dropout = {s.dropout:g}.", remedy, IMPOSSIBLE)
    if s.weight_decay > 1:
        evidence = f"weight_decay = {s.weight_decay:g}; the recipe has {recipe.weight_decay:g}."
        remedy = f"Use {argument('weight_decay', f'{recipe.weight_decay:g}')}."
        yield Finding("Weight decay pulls the weights to zero.", evidence, remedy, IMPOSSIBLE)
    for table, weights, usual_weights in (("loss", s.loss, usual.loss), ("cost", s.cost, usual.cost)):
        for term, weight in weights.items():
            default = usual_weights.get(term, 0)
            if default and not default / 20 <= weight <= 20 * default:
                effect = "is negligible" if weight < default else "outweighs all others"
                evidence = f"{table}.{term} = {weight:g} instead of {default:g}."
                remedy = f"Leave out {argument(f'{table}.{term}')}."
                yield Finding(f"The {term} term of the {table} {effect}.", evidence, remedy, IMPOSSIBLE + 1)
    if s.no_object is not None and s.no_object > 0.8:
        evidence = f"no_object = {s.no_object:g} instead of 0.1, though most queries are unmatched."
        remedy = f"Leave out {argument('no_object')}."
        yield Finding("Predicting no-object everywhere is rewarded.", evidence, remedy, SETTINGS + 5)


def _curve_findings(run: RunFacts) -> Iterator[Finding]:
    s, recipe = run.settings, run.recipe
    aps = [row["AP"] for row in run.rows if "AP" in row]
    images, best = len(run.data.train), max(aps, default=-1)
    if run.steps < 60 and s.batch_size > 2 * recipe.batch_size:
        yield Finding(
            "There were too few steps: the batches are too large for so few images.",
            f"Batches of {s.batch_size} of {images:,} images make {run.steps:,} steps in total.",
            f"Use {argument('batch_size', recipe.batch_size)}.",
            SETTINGS + 8,
        )
    short = len(run.rows) < 0.34 * recipe.epochs
    rising = len(aps) < 2 or aps[-1] >= max(aps) - 1e-9
    if short and rising and aps and best < 0.6:
        yield Finding(
            "The training was too short.",
            f"AP was {best:.3f} and rising after {len(run.rows)} epochs of {images:,} images; the recipe has "
            f"{recipe.epochs} epochs.",
            f"Use {argument('epochs', recipe.epochs)}, or resume the run with more epochs.",
            SETTINGS + 2,
        )
    if len(run.moved) >= 3 and (moved := float(run.moved[-2:].mean())) > 0.5 and best < 0.3 and not short:
        yield Finding(
            "The matching does not become stable.",
            f"{moved:.0%} of the objects get another query from one evaluation to the next.",
            "Train longer, or use a model whose queries start from proposals: "
            f"{argument('model', 'dino-tiny')} or {argument('model', 'deformable-tiny')}.",
            SCARCE + 9,
        )
