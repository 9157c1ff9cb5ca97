"""Suspects of a training split by cross-validation, since a model memorizes the wrong labels that it is trained on."""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from detrcli.api.datasets import checked_split
from detrcli.api.inspecting import session_of
from detrcli.api.runs import run_training
from detrcli.data.checks import Split
from detrcli.data.layouts.coco import coco_document
from detrcli.data.source import DataSpec, Files
from detrcli.data.splits import images_of
from detrcli.errors import UsageError
from detrcli.inference.detector import Detector
from detrcli.inspection.failures import failures_of
from detrcli.inspection.suspects import SUSPECT_KINDS, Suspect
from detrcli.messages import argument
from detrcli.reporter import SILENT, Reporter


def suspects_by_folds(
    split: Split,
    folds: int,
    settings: Mapping[str, Any],
    *,
    load: Callable[[Path], Detector],
    device: str,
    reporter: Reporter = SILENT,
) -> dict[str, list[Suspect]]:
    """Train `folds` models, each without a part of the images, and return the suspects in that part.

    `settings` are those of a training; `load` creates a detector of a run.
    """
    usable = np.flatnonzero(split.usable_images)
    if len(usable) < 2 * folds:
        raise UsageError(f"{argument('folds', folds)}: too many for {len(usable)} images.")
    fold_of = np.full(len(split.usable_images), -1)
    fold_of[usable] = np.random.default_rng(0).permutation(len(usable)) % folds
    suspects: dict[str, list[Suspect]] = {kind: [] for kind in SUSPECT_KINDS}
    with tempfile.TemporaryDirectory() as folder:
        for fold in range(folds):
            reporter.note(f"fold {fold + 1} of {folds}: training without the images of this fold")
            files: Files = {
                name: (_written(split, chosen, Path(folder, f"{name}-{fold}.json")), split.written.folder)
                for name, chosen in (("train", (fold_of != fold) & (fold_of >= 0)), ("val", fold_of == fold))
            }
            run = Path(folder, f"run-{fold}")
            spec = DataSpec.of(None, files, skip_bad=True)
            run_training(spec, settings, device, out=run)
            held_out = checked_split(spec.open(), "val", skip_bad=True)
            session = session_of(load(run), held_out, skip_bad=True, reporter=reporter)
            for kind, members in failures_of(session, held_out, "val").suspects.items():
                suspects[kind] += members
    return {kind: sorted(members, key=lambda suspect: -suspect.suspicion) for kind, members in suspects.items()}


def _written(split: Split, images: np.ndarray, path: Path) -> Path:
    """Write an annotation file of some images."""
    written = replace(split.written, sizes=split.sizes)
    path.write_text(json.dumps(coco_document(images_of(written, images))), encoding="utf-8")
    return path
