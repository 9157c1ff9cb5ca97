"""The twelve COCO metrics, the AP of each class, and the evaluators that judge the epochs of a training."""

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np

from detrcli.errors import MachineError
from detrcli.evaluation.pairing import FOUND_IOU
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import RunLengths, Truth, truth_masks
from detrcli.run_lengths import box_around, encode, pixels_of

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
RECALLS = np.linspace(0, 1, 101)  # at which precision is sampled
MAX_DETECTIONS = 100  # of an image and class that count
MASKS_PER_CALL = 200  # with numpy 2, pycocotools cannot count beyond 255
BOUNDARY_WIDTH = 0.02  # as a share of the image's diagonal

# Indices of COCO's accumulated arrays: objects of all sizes, small, medium, large; an IoU of 0.5 and of 0.75.
ALL, SMALL, MEDIUM, LARGE = range(4)
IOU_50, IOU_75 = 0, 5

# Prepares an evaluation with pycocotools' interface from ground truth, results, and the masks of the objects if masks
# are compared.
Backend = Callable[[Truth, Results, np.ndarray | None], Any]


@dataclass(frozen=True)
class ClassScore:
    category_id: int
    label: str
    AP: float  # -1 if there are no objects
    AP50: float
    targets: int  # objects, without crowds


@dataclass(frozen=True)
class Scores:
    metrics: Mapping[str, float]
    per_class: Sequence[ClassScore]


def score(
    truth: Truth,
    results: Results,
    *,
    max_detections: int = MAX_DETECTIONS,
    backend: Backend | None = None,
    masks: np.ndarray | None = None,
) -> Scores:
    """Compute the metrics of pycocotools, equal to the last bit. Results of other images or classes are ignored.

    With the `masks` of the objects, (N,) RunLengths, masks are compared instead of boxes.
    """
    if not len(truth.classes):
        return Scores(dict.fromkeys(METRICS, -1.0), [])
    backend = backend or (hotcoco_evaluation if has_hotcoco() else pycocotools_evaluation)
    limits = [1, min(10, max_detections), max_detections]
    precision, recall = accumulated(backend(truth, results, masks), limits)  # -1 where there are no objects
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
    per_class = [
        ClassScore(id_, name, _mean(precision[:, :, k, ALL, 2]), _mean(precision[IOU_50, :, k, ALL, 2]), count)
        for k, (id_, name, count) in enumerate(
            zip(truth.classes.ids.tolist(), truth.classes.names.tolist(), targets.tolist(), strict=True)
        )
    ]
    return Scores(dict(zip(METRICS, map(_mean, values), strict=True)), per_class)


def _mean(values: np.ndarray) -> float:
    measured = values[values > -1]
    return float(np.mean(measured)) if len(measured) else -1.0


def accumulated(evaluation: Any, max_detections: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Run an evaluation; return precision (IoU, recall, K, area, detections) and recall (IoU, K, area, detections)."""
    parameters = evaluation.params
    parameters.maxDets = max_detections
    evaluation.params = parameters
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        evaluation.evaluate()
        evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"])


def has_hotcoco() -> bool:
    return find_spec("hotcoco") is not None


def require_hotcoco(feature: str) -> None:
    """Raise MachineError if a feature cannot be computed on this platform."""
    if not has_hotcoco():
        raise MachineError(f"{feature} requires hotcoco, which has no wheel for this platform.")


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


def hotcoco_evaluation(truth: Truth, results: Results, masks: np.ndarray | None = None) -> Any:
    """Prepare an evaluation by hotcoco, in Rust on all cores."""
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
    if masks is None:
        return COCOeval(objects, objects.load_res(rows), "bbox")
    assert results.masks is not None
    detections = objects.load_res(rows, segmentation=list(results.masks))
    if len(results):  # small, medium or large by the mask, not by the box
        detections.update_anns(ids=np.arange(1, len(results) + 1), area=areas(results.masks))
    return COCOeval(objects, detections, "segm")


def pycocotools_evaluation(truth: Truth, results: Results, masks: np.ndarray | None = None) -> Any:
    """Prepare an evaluation by pycocotools, for platforms for which hotcoco has no wheel."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

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
    if masks is not None:
        assert results.masks is not None
        objects["segmentation"] = list(masks)
        detections |= {"segmentation": list(results.masks), "area": areas(results.masks).tolist()}
    return COCOeval(coco(**objects), coco(**detections), "bbox" if masks is None else "segm")


def boundary_of(mask: np.ndarray) -> np.ndarray:
    """Return the pixels of a mask (H, W) that are close to pixels outside of it, or to the edge of the image."""
    from scipy.ndimage import minimum_filter

    distance = max(1, round(BOUNDARY_WIDTH * float(np.hypot(*mask.shape))))
    boundary = mask.copy()
    left, top, width, height = box_around(mask)
    if width:
        inside = np.s_[top : top + height, left : left + width]
        boundary[inside] &= ~minimum_filter(mask[inside], 2 * distance + 1, mode="constant", cval=False)
    return boundary


def boundary_evaluation(truth: Truth, results: Results, masks: np.ndarray | None) -> Any:
    """Prepare boundary AP (arXiv 2103.16562), with the lower IoU of two masks and of their boundaries."""
    from pycocotools import mask as rle

    evaluation = pycocotools_evaluation(truth, results, masks)
    mask_ious = evaluation.computeIoU

    def lower_ious(image: int, category: int) -> np.ndarray:
        ious = np.array(mask_ious(image, category))  # (D, G), detections by descending score
        near = ious >= FOUND_IOU  # other pairs cannot match anyway
        if not near.any():
            return ious
        rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
        detections, objects = evaluation._dts[image, category], evaluation._gts[image, category]
        order = np.argsort([-entry["score"] for entry in detections], kind="mergesort")
        boundary_ious = rle.iou(
            [_boundary(detections[i]["segmentation"]) for i in order[rows]],
            [_boundary(objects[i]["segmentation"]) for i in columns],
            [int(objects[i]["iscrowd"]) for i in columns],
        )
        ious[np.ix_(rows, columns)] = np.minimum(ious[np.ix_(rows, columns)], boundary_ious)
        return ious

    evaluation.computeIoU = lower_ious
    return evaluation


def _boundary(mask: RunLengths) -> RunLengths:
    return {"size": mask["size"], "counts": encode(boundary_of(pixels_of(mask)))}


def areas(masks: np.ndarray) -> np.ndarray:
    """Return the number of pixels of each mask, (N,) float64."""
    from pycocotools import mask as rle

    starts = range(0, len(masks), MASKS_PER_CALL)
    return np.concatenate([np.zeros(0), *(rle.area(list(masks[start : start + MASKS_PER_CALL])) for start in starts)])


def paired_ious(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the IoU of each mask with the mask at the same index of the other array, (N,)."""
    from pycocotools import mask as rle

    return np.array([float(rle.iou([a], [b], [0])[0, 0]) for a, b in zip(first, second, strict=True)])


class Evaluator(Protocol):
    """Computes metrics of an epoch from the detections of the validation split."""

    @property
    def names(self) -> Sequence[str]:
        """The names of the metrics, in the order of the columns of metrics.csv."""

    @property
    def best(self) -> str:
        """The metric that selects the best epoch: the higher the better; negative if nothing could be measured."""

    def evaluate(self, truth: Truth, results: Results) -> Mapping[str, float]:
        """Return the metrics by name."""


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
