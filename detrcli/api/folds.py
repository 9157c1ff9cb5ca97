"""Suspects of a training split by models that have not seen its labels: a model learns wrong ones by heart."""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from detrcli.api.datasets import checked_split
from detrcli.api.inspecting import session_of
from detrcli.api.training import train
from detrcli.data.checks import Split
from detrcli.data.coco_writer import coco_document
from detrcli.data.source import images_of
from detrcli.data.spec import DataSpec, Files, Note
from detrcli.errors import UsageError
from detrcli.inference.detector import Detector
from detrcli.inspection.failures import failures_of
from detrcli.inspection.suspects import KINDS, Suspect


def suspects_by_folds(
    split: Split, folds: int, settings: Mapping[str, Any], *, load: Callable[[Path], Detector], device: str, note: Note
) -> dict[str, list[Suspect]]:
    """Train `folds` times, each time without a part of the pictures, which are suspected by what was learned then.

    `settings` are those of a training; `load` makes a detector of a run.
    """
    usable = np.flatnonzero(split.usable_images)
    if len(usable) < 2 * folds:
        raise UsageError(f"--folds {folds}: there are {len(usable)} pictures to train on.")
    fold_of = np.full(len(split.usable_images), -1)
    fold_of[usable] = np.random.default_rng(0).permutation(len(usable)) % folds
    found: dict[str, list[Suspect]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as place:
        for fold in range(folds):
            note(f"fold {fold + 1} of {folds}: training without a part of the pictures, which is looked at then")
            files: Files = {
                name: (_written(split, chosen, Path(place, f"{name}-{fold}.json")), split.written.folder)
                for name, chosen in (("train", (fold_of != fold) & (fold_of >= 0)), ("val", fold_of == fold))
            }
            run = Path(place, f"run-{fold}")
            train(files=files, settings=settings, out=run, device=device, skip_bad=True, report=False)
            held = checked_split(DataSpec.of(None, files).open(), "val", skip_bad=True)
            session = session_of(load(run), held, skip_bad=True)
            for kind, members in failures_of(session, held, "val").suspects.items():
                found[kind] += members
    return {kind: sorted(members, key=lambda one: -one.suspicion) for kind, members in found.items()}


def _written(split: Split, images: np.ndarray, path: Path) -> Path:
    """Some images of a split as an annotation file."""
    written = replace(split.written, sizes=split.sizes)
    path.write_text(json.dumps(coco_document(images_of(written, images))), encoding="utf-8")
    return path
