"""The twelve COCO metrics, the AP of each class, and the evaluators that judge the epochs of a training."""

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np

from detrcli.evaluation.masks import areas, truth_masks
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import Truth

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
RECALLS = np.linspace(0, 1, 101)  # at which precision is sampled
MAX_DETECTIONS = 100  # of an image and class that count

# Indices of COCO's accumulated arrays: objects of all sizes, small, medium, large; an IoU of 0.5 and of 0.75.
ALL, SMALL, MEDIUM, LARGE = range(4)
IOU_50, IOU_75 = 0, 5


@dataclass(frozen=True)
class ClassScore:
    """The metrics of a class."""

    category_id: int
    label: str
    AP: float  # -1 if there are no objects
    AP50: float
    targets: int  # objects, without crowds


@dataclass(frozen=True)
class Scores:
    """The metrics of a split."""

    metrics: Mapping[str, float]
    per_class: Sequence[ClassScore]


# Precision (IoU, recall, K, area, detections) and recall (IoU, K, area, detections), -1 where there are no objects, of
# ground truth, results, masks of the objects if these are compared, and [1, 10, maximum number of detections].
Counting = Callable[[Truth, Results, np.ndarray | None, list[int]], tuple[np.ndarray, np.ndarray]]


def score(
    truth: Truth,
    results: Results,
    *,
    max_detections: int = MAX_DETECTIONS,
    counting: Counting | None = None,
    masks: np.ndarray | None = None,
) -> Scores:
    """Compute the metrics of pycocotools, equal to the last bit. Results of other images or classes are ignored.

    With the `masks` of the objects, (N,) RunLengths, masks are compared instead of boxes.
    """
    if not len(truth.classes):
        return Scores(dict.fromkeys(METRICS, -1.0), [])
    count = counting or _counting()
    precision, recall = count(truth, results, masks, [1, min(10, max_detections), max_detections])
    real = truth.of_category[~truth.crowd]
    targets = np.bincount(np.searchsorted(truth.classes.ids, real), minlength=len(truth.classes))
    values = [
        precision[..., ALL, 2],
        precision[IOU_50, ..., ALL, 2],
        precision[IOU_75, ..., ALL, 2],
        *(precision[..., area, 2] for area in (SMALL, MEDIUM, LARGE)),
        *(recall[..., ALL, limit] for limit in range(3)),
        *(recall[..., area, 2] for area in (SMALL, MEDIUM, LARGE)),
    ]
    return Scores(
        dict(zip(METRICS, map(_mean, values), strict=True)),
        [
            ClassScore(id_, name, _mean(precision[:, :, k, ALL, 2]), _mean(precision[IOU_50, :, k, ALL, 2]), count)
            for k, (id_, name, count) in enumerate(
                zip(truth.classes.ids.tolist(), truth.classes.names.tolist(), targets.tolist(), strict=True)
            )
        ],
    )


def _mean(values: np.ndarray) -> float:
    measured = values[values > -1]
    return float(np.mean(measured)) if len(measured) else -1.0


def _counting() -> Counting:
    return with_hotcoco if find_spec("hotcoco") else with_pycocotools


def _numbered(truth: Truth, results: Results) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number images and categories from 1, in the order of their ids, which decides ties.

    pycocotools ignores an annotation of id 0, and ids can exceed its integers. Returns the image and the category of
    each object, (N,), and image, x, y, width, height, score and category of each detection, (M, 7).
    """
    image = np.searchsorted(truth.image_ids, results.image_ids) + 1
    category = np.searchsorted(truth.classes.ids, results.category_ids) + 1
    return (
        np.searchsorted(truth.image_ids, truth.of_image) + 1,
        np.searchsorted(truth.classes.ids, truth.of_category) + 1,
        np.column_stack([image, results.boxes, results.scores, category]),
    )


def with_hotcoco(
    truth: Truth, results: Results, masks: np.ndarray | None, max_detections: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Count with hotcoco, in Rust on all cores."""
    return accumulate(hotcoco_evaluation(truth, results, masks), max_detections)


def hotcoco_evaluation(truth: Truth, results: Results, masks: np.ndarray | None = None) -> Any:
    """Return hotcoco's evaluation object, not yet run."""
    from hotcoco import COCO, COCOeval

    results = results.part(results.known_to(truth))
    of_image, of_category, rows = _numbered(truth, results)
    objects = COCO.from_arrays(
        [{"id": i + 1} for i in range(len(truth.images))],
        [{"id": k + 1, "name": str(k + 1)} for k in range(len(truth.classes))],
        of_image,
        of_category,
        truth.boxes,
        area=truth.areas,
        iscrowd=truth.crowd,
        segmentation=None if masks is None else list(masks),
    )
    if masks is None or results.masks is None:
        return COCOeval(objects, objects.load_res(rows), "bbox" if masks is None else "segm")
    detections = objects.load_res(rows, segmentation=list(results.masks))
    if len(results):  # small, medium or large by the mask, not by the box
        detections.update_anns(ids=np.arange(1, len(results) + 1), area=areas(results.masks))
    return COCOeval(objects, detections, "segm")


def with_pycocotools(
    truth: Truth, results: Results, masks: np.ndarray | None, max_detections: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Count with pycocotools, on platforms for which hotcoco has no wheel."""
    from pycocotools.cocoeval import COCOeval

    kind = "bbox" if masks is None else "segm"
    return accumulate(COCOeval(*pycocotools_sets(truth, results, masks), kind), max_detections)


def pycocotools_sets(truth: Truth, results: Results, masks: np.ndarray | None) -> tuple[Any, Any]:
    """Return objects and detections as pycocotools COCO objects."""
    from pycocotools.coco import COCO

    def coco(**columns: list[Any]) -> COCO:
        made = COCO()
        made.dataset = {
            "images": [{"id": i + 1, "height": 0, "width": 0} for i in range(len(truth.images))],  # RLE has a size
            "categories": [{"id": k + 1} for k in range(len(truth.classes))],
            "annotations": [
                {"id": i, **dict(zip(columns, row, strict=True))}
                for i, row in enumerate(zip(*columns.values(), strict=True), 1)
            ],
        }
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
            made.createIndex()
        return made

    results = results.part(results.known_to(truth))
    of_image, of_category, rows = _numbered(truth, results)
    objects = {
        "image_id": of_image.tolist(), "category_id": of_category.tolist(), "bbox": truth.boxes.tolist(),
        "area": truth.areas.tolist(), "iscrowd": truth.crowd.astype(int).tolist(),
    }  # fmt: skip
    detections = {
        "image_id": rows[:, 0].astype(int).tolist(), "category_id": rows[:, 6].astype(int).tolist(),
        "bbox": results.boxes.tolist(), "area": results.boxes[:, 2:].prod(1).tolist(), "iscrowd": [0] * len(results),
        "score": results.scores.tolist(),
    }  # fmt: skip
    if masks is not None and results.masks is not None:
        objects["segmentation"] = list(masks)
        detections |= {"segmentation": list(results.masks), "area": areas(results.masks).tolist()}
    return coco(**objects), coco(**detections)


def accumulate(evaluation: Any, max_detections: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Run an evaluation of hotcoco or pycocotools; return precision and recall."""
    parameters = evaluation.params
    parameters.maxDets = max_detections
    evaluation.params = parameters
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        evaluation.evaluate()
        evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"])


class Evaluator(Protocol):
    """Judges an epoch of a training by the detections of the validation split."""

    @property
    def names(self) -> Sequence[str]:
        """The names of the values, in the order of the columns of metrics.csv."""

    @property
    def best(self) -> str:
        """The value that decides which epoch is best: the higher the better; negative if nothing could be measured."""

    def evaluate(self, truth: Truth, results: Results) -> Mapping[str, float]:
        """Return the values."""


@dataclass(frozen=True)
class CocoEvaluator:
    """The twelve COCO metrics of boxes, and those of masks as mask_AP and so on; AP or mask_AP decides."""

    masks: bool = False

    @property
    def best(self) -> str:
        return "mask_AP" if self.masks else "AP"

    @property
    def names(self) -> Sequence[str]:
        of_masks = [f"mask_{name}" for name in METRICS]
        return (of_masks[0], *METRICS, *of_masks[1:]) if self.masks else METRICS

    def evaluate(self, truth: Truth, results: Results) -> Mapping[str, float]:
        boxes = score(truth, results).metrics
        masks = truth_masks(truth) if self.masks and results.masks is not None else None
        if masks is None:
            return boxes
        of_masks = score(truth, results, masks=masks).metrics
        return {**boxes, **{f"mask_{name}": value for name, value in of_masks.items()}}
