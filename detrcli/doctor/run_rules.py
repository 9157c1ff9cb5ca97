"""What settings and curves of a training say, beside what the recipe of its model would have been."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.data.dataset import DetectionDataset, Example
from detrcli.doctor.finding import BROKEN, IMPOSSIBLE, LITTLE, SETTINGS, Finding
from detrcli.training.settings import Settings, make_settings
from detrcli.training.setup import Data, facts_of

LOOKED_AT = 48  # pictures of train
SMALL = 8  # pixels of an object's side in the input, below which little is left of it
Row = Mapping[str, float]


@dataclass(frozen=True)
class RunFacts:
    """A training that has ended, or been stopped."""

    settings: Settings
    checkpoint: Checkpoint  # its best, or last ones
    data: Data
    rows: Sequence[Row]  # of metrics.csv
    moved: np.ndarray  # (E,), the share of objects that got another query, evaluation by evaluation
    diverged: bool

    @property
    def steps(self) -> int:
        """Of the optimiser, in all epochs that were trained."""
        pictures = self.settings.batch_size * self.settings.accumulate
        return max(1, len(self.data.train) // pictures) * max(1, len(self.rows))

    def column(self, name: str) -> list[float]:
        """What was measured, epoch by epoch."""
        return [row[name] for row in self.rows if name in row]


def of_run(run: RunFacts) -> Iterator[Finding]:
    """All findings about a training."""
    yield from _of_preprocessing(run)
    yield from _of_capacity(run)
    yield from _of_optimisation(run)
    yield from _of_curves(run)
    yield from _of_augmentation(run)


def _recipe(run: RunFacts) -> Settings:
    """What the model's own recipe says for this data."""
    architecture = run.checkpoint.architecture
    recipe: dict[str, Any] = dict(architecture.recipe(run.checkpoint.config, facts_of(run.data.train)))
    return make_settings({}, recipe)


def _of_preprocessing(run: RunFacts) -> Iterator[Finding]:
    dataset = DetectionDataset(run.data.train, run.checkpoint.preprocessing, augmentation="none")
    places = np.linspace(0, len(dataset) - 1, min(LOOKED_AT, len(dataset))).astype(int)
    examples = [one for i in places.tolist() if isinstance(one := dataset[0, i], Example)]
    if not examples:
        return
    values = torch.stack([torch.stack([one.pixels.mean(), one.pixels.std()]) for one in examples])
    mean, std = (float(value) for value in values.mean(0))
    if abs(mean) > 4 or not 0.1 < std < 5:
        yield Finding(
            "The pictures are normalised in another way than the network expects.",
            f"Its input has a mean of {mean:.3g} and a deviation of {std:.3g}; 0 and 1 are usual.",
            "Look at mean and std that the weights bring along: they are for numbers from 0 to 1.",
            BROKEN + 6,
        )
    sides = torch.cat([one.target.boxes[:, 2:] * torch.tensor(one.pixels.shape[:0:-1]) for one in examples]).amin(
        1
    )  # (n,), shorter sides in pixels of the input
    if len(sides) and float(sides.median()) < SMALL:
        height, width = examples[0].pixels.shape[1:]
        yield Finding(
            "The objects are too small in the network's input.",
            f"Half of them are under {float(sides.median()):.0f} pixels there: pictures come to {width} x {height}.",
            f"Train with a larger --size; it was {min(height, width)}.",
            IMPOSSIBLE + 3,
        )


def _of_capacity(run: RunFacts) -> Iterator[Finding]:
    most, queries = int(run.data.train.counts.max()), run.checkpoint.config.queries
    if most > queries:
        share = float((run.data.train.counts > queries).float().mean())
        yield Finding(
            "There are too few queries.",
            f"The model has {queries}, and a picture up to {most} objects; {share:.0%} of the pictures have more.",
            f"Train with --set queries={2 * most}.",
            IMPOSSIBLE + 6 if share > 0.05 else SETTINGS,
        )
    if run.settings.freeze == "all" and run.settings.weights == "none":
        yield Finding(
            "The backbone is frozen as it was drawn at random.",
            "freeze = all, and the training began from scratch.",
            "Leave freeze out, or start from trained weights.",
            IMPOSSIBLE + 7,
        )


def _of_optimisation(run: RunFacts) -> Iterator[Finding]:
    s, recipe = run.settings, _recipe(run)
    if run.diverged:
        yield Finding(
            "The training diverged.",
            f"The loss was no finite number any more; the learning rate is {s.lr:g}, the recipe's {recipe.lr:g}.",
            f"Train with --lr {recipe.lr:.2g} or less.",
            BROKEN + 5,
        )
    elif s.lr >= 8 * recipe.lr:
        yield Finding(
            "The learning rate is too high.",
            f"It is {s.lr:g}; the recipe of this model for this data has {recipe.lr:.2g}.",
            f"Train with --lr {recipe.lr:.2g}.",
            IMPOSSIBLE + 5,
        )
    elif s.lr <= recipe.lr / 15:
        yield Finding(
            "The learning rate is too low.",
            f"It is {s.lr:g}; the recipe of this model for this data has {recipe.lr:.2g}.",
            f"Train with --lr {recipe.lr:.2g}.",
            IMPOSSIBLE + 4,
        )
    # The recipe's own warm-up is too long only where the training is too short, which is said otherwise.
    if s.warmup > 0.5 * run.steps and s.warmup > max(4, recipe.warmup):
        yield Finding(
            "The learning rate was still rising when the training ended.",
            f"warmup = {s.warmup:,} steps, and there were {run.steps:,}.",
            f"Train with --set warmup={run.steps // 20}.",
            IMPOSSIBLE + 1,
        )
    if (s.dropout or 0) > 0.5:
        yield Finding(
            "Dropout takes most of what the transformer computes.", f"dropout = {s.dropout:g}.",
            "Leave it out, or take 0.1.", IMPOSSIBLE,
        )  # fmt: skip
    if s.weight_decay > 1:
        yield Finding(
            "Weight decay pulls the weights to zero.",
            f"weight_decay = {s.weight_decay:g}; the recipe has {recipe.weight_decay:g}.",
            f"Train with --set weight_decay={recipe.weight_decay:g}.",
            IMPOSSIBLE,
        )
    defaults = run.checkpoint.architecture.loss
    for table, ours, theirs in (("loss", s.loss, defaults.loss), ("cost", s.cost, defaults.cost)):
        for term, weight in ours.items():
            usual = theirs.get(term, 0)
            if usual and (weight < usual / 20 or weight > 20 * usual):
                yield Finding(
                    f"The {term} term of the {table} weighs next to nothing."
                    if weight < usual
                    else f"The {term} term of the {table} outweighs all others.",
                    f"{table}.{term} = {weight:g}, where {usual:g} is usual.",
                    f"Leave {table}.{term} out.",
                    IMPOSSIBLE + 1,
                )
    if s.no_object is not None and s.no_object > 0.8:
        yield Finding(
            "To predict nothing pays.",
            f"no_object = {s.no_object:g}, where 0.1 is usual: unmatched queries are most of them.",
            "Leave no_object out.",
            SETTINGS + 5,
        )


def _of_curves(run: RunFacts) -> Iterator[Finding]:
    s, recipe, aps = run.settings, _recipe(run), run.column("AP")
    pictures = len(run.data.train)
    seen, wanted = pictures * len(run.rows), pictures * recipe.epochs
    if run.steps < 60 and s.batch_size > 2 * recipe.batch_size:
        yield Finding(
            "There were too few steps: the batches are too large for so few pictures.",
            f"{s.batch_size} pictures at a time of {pictures:,} make {run.steps:,} steps in all.",
            f"Train with --batch-size {recipe.batch_size}.",
            SETTINGS + 8,
        )
    rising = len(aps) < 2 or aps[-1] >= max(aps) - 1e-9
    best = max(aps, default=-1)
    if seen < 0.34 * wanted and rising and best < 0.6:
        yield Finding(
            "The training was too short.",
            f"{len(run.rows)} epochs of {pictures:,} pictures, with AP {best:.3f} at the end and rising; the recipe "
            f"has {recipe.epochs}.",
            f"Train with --epochs {recipe.epochs}, or resume with more.",
            SETTINGS + 2,
        )
    if len(run.moved) >= 3 and float(run.moved[-2:].mean()) > 0.5 and best < 0.3 and seen >= 0.34 * wanted:
        yield Finding(
            "The matching does not settle.",
            f"From one evaluation to the next {run.moved[-2:].mean():.0%} of the objects get another query.",
            "Train longer, or a model whose queries begin at proposals: --model dino-tiny or deformable-tiny.",
            LITTLE + 9,
        )


def _of_augmentation(run: RunFacts) -> Iterator[Finding]:
    if run.settings.augmentation == "none":
        return
    plain, seen = (
        DetectionDataset(run.data.train, run.checkpoint.preprocessing, augmentation=kind)
        for kind in ("none", run.settings.augmentation)
    )
    if run.settings.augmentation == "strong":  # every second picture is one of four, with more objects
        return
    places = np.linspace(0, len(plain) - 1, min(LOOKED_AT, len(plain))).astype(int).tolist()
    before, after = (
        sum(len(one.target) for i in places if isinstance(one := dataset[0, i], Example)) for dataset in (plain, seen)
    )
    if before and after < 0.7 * before:
        yield Finding(
            "Augmentation cuts objects away.",
            f"Of {before} objects in {len(places)} pictures {after} are left; augmentation = "
            f"{run.settings.augmentation}.",
            "Train with --set augmentation=flip.",
            SETTINGS + 6,
        )
