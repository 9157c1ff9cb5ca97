"""The reference evaluation by pycocotools, and its files."""

import contextlib
import copy
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detrcli.data.checks import check_split
from detrcli.data.layouts import coco
from detrcli.evaluation.results import Results, read_results
from detrcli.evaluation.truth import Truth, truth_of

Document = dict[str, Any]
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        yield


@_silent()
def judged(truth: Document, results: list[Document], most: int = 100, kind: str = "bbox") -> COCOeval:
    """An accumulated evaluation with `most` detections of an image and class; of masks if `kind` is "segm"."""
    gt = COCO()
    gt.dataset = copy.deepcopy(truth)
    for i, annotation in enumerate(gt.dataset["annotations"], 1):
        annotation["id"] = i  # pycocotools ignores an annotation of id 0
    gt.createIndex()
    found = COCO()  # pycocotools cannot load an empty list
    found.dataset = {**gt.dataset, "annotations": []}
    found.createIndex()
    evaluation = COCOeval(gt, gt.loadRes(copy.deepcopy(results)) if results else found, kind)
    evaluation.params.maxDets = [1, min(10, most), most]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


@_silent()
def twelve(truth: Document, results: list[Document], kind: str = "bbox") -> dict[str, float]:
    """The metrics that pycocotools prints."""
    evaluation = judged(truth, results, kind=kind)
    evaluation.summarize()
    return dict(zip(METRICS, evaluation.stats.tolist(), strict=True))


def class_aps(evaluation: COCOeval) -> dict[int, tuple[float, float]]:
    """AP and AP50 by category id."""

    def mean(values: np.ndarray) -> float:
        return float(values[values > -1].mean()) if (values > -1).any() else -1.0

    precision = evaluation.eval["precision"]  # IoU, recall, class, area, detections
    return {
        category: (mean(precision[:, :, k, 0, -1]), mean(precision[0, :, k, 0, -1]))
        for k, category in enumerate(evaluation.params.catIds)
    }


def read_truth(folder: Path, document: Document, **options: Any) -> Truth:
    """The ground truth of a COCO file, without its images."""
    path = coco_folder(folder, document) / "annotations" / "instances_val.json"
    return truth_of(check_split("val", coco.read(path, [folder]), images=False), **options)


def read_both(folder: Path, document: Document, entries: list[Document]) -> tuple[Truth, Results]:
    truth, path = read_truth(folder, document), folder / "results.json"
    path.write_text(json.dumps(entries))
    return truth, read_results(path, truth.image_ids, truth.classes.ids)


def coco_folder(root: Path, truth: Document, split: str = "val") -> Path:
    """A dataset in COCO layout, without its images."""
    path = root / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(truth))
    return root
