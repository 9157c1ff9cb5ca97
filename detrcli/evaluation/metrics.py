"""The twelve COCO numbers and the AP of every class."""

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from detrcli.evaluation.masks import areas, objects
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import Truth

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
RECALLS = np.linspace(0, 1, 101)  # at which precision is read
MAX_DETECTIONS = 100  # of an image and class that count

# Where COCO's evaluation keeps things: at axis "area" all, small, medium, large; at axis "detections" 1, 10, all.
ALL, SMALL, MEDIUM, LARGE = range(4)
IOU_50, IOU_75 = 0, 5
LEAST_IOU = 0.5  # from which a detection can find an object


@dataclass(frozen=True)
class ClassScore:
    """How well a class is found."""

    category_id: int
    label: str
    AP: float  # -1 where there is nothing to find
    AP50: float
    targets: int  # without crowds


@dataclass(frozen=True)
class Scores:
    """What an evaluation says."""

    metrics: Mapping[str, float]
    per_class: Sequence[ClassScore]


@dataclass(frozen=True)
class Columns:
    """Truth and results with images, categories and objects counted from 1, in the order of their own ids.

    pycocotools takes an annotation of id 0 for none, and other ids need not fit what is counted with.
    The order decides how ties are broken and stays.
    """

    images: int
    categories: int
    of_image: np.ndarray  # (N,)
    of_category: np.ndarray  # (N,)
    boxes: np.ndarray  # (N, 4)
    areas: np.ndarray  # (N,)
    crowd: np.ndarray  # (N,)
    found: np.ndarray  # (M, 7), image, x, y, width, height, score, category
    masks: list[Any] | None = None  # (N,) run lengths of the objects, where masks are compared and not boxes
    found_masks: list[Any] | None = None  # (M,) of the results

    @property
    def compares(self) -> str:
        """What is compared, by COCO's word for it."""
        return "bbox" if self.masks is None else "segm"


# (columns, [1, 10, most detections]) to precision (IoU, recall, K, area, detections) and recall (IoU, K, area,
# detections); -1 where there is nothing to find.
Counting = Callable[[Columns, list[int]], tuple[np.ndarray, np.ndarray]]


def score(
    truth: Truth,
    results: Results,
    *,
    max_detections: int = MAX_DETECTIONS,
    counting: Counting | None = None,
    masks: np.ndarray | None = None,
) -> Scores:
    """The numbers that pycocotools gives, to the last bit. Results of other images or classes are passed over.

    With the `masks` of the truth's objects, (N,), it is the masks that are compared.
    """
    columns = columns_of(truth, results, masks)
    most = [1, min(10, max_detections), max_detections]
    if not len(truth.classes):
        return Scores(dict.fromkeys(METRICS, -1.0), [])
    precision, recall = (counting or _counting())(columns, most)
    targets = np.bincount(columns.of_category[~columns.crowd] - 1, minlength=len(truth.classes))
    return Scores(
        metrics=dict(
            zip(
                METRICS,
                (
                    _mean(precision[..., ALL, 2]),
                    _mean(precision[IOU_50, ..., ALL, 2]),
                    _mean(precision[IOU_75, ..., ALL, 2]),
                    *(_mean(precision[..., area, 2]) for area in (SMALL, MEDIUM, LARGE)),
                    *(_mean(recall[..., ALL, most]) for most in range(3)),
                    *(_mean(recall[..., area, 2]) for area in (SMALL, MEDIUM, LARGE)),
                ),
                strict=True,
            )
        ),
        per_class=[
            ClassScore(
                category_id=category_id,
                label=label,
                AP=_mean(precision[:, :, k, ALL, 2]),
                AP50=_mean(precision[IOU_50, :, k, ALL, 2]),
                targets=count,
            )
            for k, (category_id, label, count) in enumerate(
                zip(truth.classes.ids.tolist(), truth.classes.names.tolist(), targets.tolist(), strict=True)
            )
        ],
    )


def _mean(values: np.ndarray) -> float:
    """Over what there is anything to find of."""
    there = values[values > -1]
    return float(np.mean(there)) if len(there) else -1.0


def columns_of(truth: Truth, results: Results, masks: np.ndarray | None = None) -> Columns:
    """Truth and results in columns; results of other images or classes are passed over."""
    here = np.isin(results.image_ids, truth.image_ids) & np.isin(results.category_ids, truth.classes.ids)
    results = results.part(here)

    def count(ids: np.ndarray, known: np.ndarray) -> np.ndarray:
        return np.searchsorted(known, ids) + 1

    return Columns(
        images=len(truth.image_ids),
        categories=len(truth.classes),
        of_image=count(truth.of_image, truth.image_ids),
        of_category=count(truth.of_category, truth.classes.ids),
        boxes=truth.boxes,
        areas=truth.areas,
        crowd=truth.crowd,
        found=np.column_stack(
            [
                count(results.image_ids, truth.image_ids),
                results.boxes,
                results.scores,
                count(results.category_ids, truth.classes.ids),
            ]
        ),
        masks=None if masks is None else list(masks),
        found_masks=None if masks is None or results.masks is None else list(results.masks),
    )


def _counting() -> Counting:
    return with_hotcoco if find_spec("hotcoco") else with_pycocotools


def with_hotcoco(columns: Columns, most: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """In Rust, over all cores."""
    return run(hotcoco_evaluation(columns), most)


def hotcoco_evaluation(columns: Columns) -> Any:
    """Its evaluation of these columns, which has not begun yet."""
    from hotcoco import COCO, COCOeval

    c = columns
    truth = COCO.from_arrays(
        [{"id": i} for i in range(1, c.images + 1)],
        [{"id": k, "name": str(k)} for k in range(1, c.categories + 1)],
        c.of_image,
        c.of_category,
        c.boxes,
        area=c.areas,
        iscrowd=c.crowd,
        segmentation=c.masks,
    )
    found = truth.load_res(c.found, segmentation=c.found_masks)
    if c.found_masks:  # small, medium or large by the mask, not by the box
        found.update_anns(ids=np.arange(1, len(c.found) + 1), area=areas(objects(c.found_masks)))
    return COCOeval(truth, found, c.compares)


def with_pycocotools(columns: Columns, most: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Where hotcoco has no wheel."""
    from pycocotools.cocoeval import COCOeval

    return run(COCOeval(*pycocotools_sets(columns), columns.compares), most)


def pycocotools_sets(columns: Columns) -> tuple[Any, Any]:
    """Truth and results as pycocotools holds them."""
    from pycocotools.coco import COCO

    c = columns
    images = [{"id": i, "height": 0, "width": 0} for i in range(1, c.images + 1)]  # run lengths have a size
    categories = [{"id": k} for k in range(1, c.categories + 1)]

    def coco(annotations: list[dict[str, Any]]) -> COCO:
        made = COCO()
        made.dataset = {"images": images, "categories": categories, "annotations": annotations}
        with contextlib.redirect_stdout(io.StringIO()):  # it talks
            made.createIndex()
        return made

    truth = [
        {"id": i, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for i, (image, category, box, area, crowd) in enumerate(
            zip(
                c.of_image.tolist(),
                c.of_category.tolist(),
                c.boxes.tolist(),
                c.areas.tolist(),
                c.crowd.tolist(),
                strict=True,
            ),
            1,
        )
    ]
    found = [
        {
            "id": i,
            "image_id": int(image),
            "category_id": int(category),
            "bbox": [x, y, w, h],
            "area": w * h,
            "iscrowd": 0,
            "score": score,
        }
        for i, (image, x, y, w, h, score, category) in enumerate(c.found.tolist(), 1)
    ]
    if c.masks is not None and c.found_masks is not None:
        for entry, mask in zip(truth, c.masks, strict=True):
            entry["segmentation"] = mask
        for entry, mask, area in zip(found, c.found_masks, areas(objects(list(c.found_masks))).tolist(), strict=True):
            entry |= {"segmentation": mask, "area": area}
    return coco(truth), coco(found)


def run(evaluation: Any, most: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """An evaluation to its end, by whichever of the two."""
    parameters = evaluation.params
    parameters.maxDets = most
    evaluation.params = parameters
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools talks
        evaluation.evaluate()
        evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"])
