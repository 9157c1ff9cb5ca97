"""How good the masks of found objects are, and which annotated masks are probably poor."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from detrcli.evaluation.boundary import with_boundaries
from detrcli.evaluation.masks import RunLengths, paired_ious, truth_masks
from detrcli.evaluation.metrics import Scores, score
from detrcli.evaluation.outcomes import Outcomes
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import Truth
from detrcli.inspection.suspects import LEAST, TIGHT, Suspect


@dataclass(frozen=True)
class MaskFailures:
    """The masks of N objects and of M detections, and how far those of found objects agree."""

    scores: Scores
    boundaries: Scores  # the same by boundary IoU
    objects: np.ndarray  # (N,) of RunLengths
    detections: np.ndarray  # (M,)
    ious: np.ndarray  # (N,), of an object's mask with that of the detection that finds it; NaN where none does

    @property
    def mean_iou(self) -> float:
        """Of the objects that were found; -1 where none was."""
        found = self.ious[np.isfinite(self.ious)]
        return float(found.mean()) if len(found) else -1.0

    def document(self) -> dict[str, float]:
        """The twelve numbers of masks, AP by their boundaries, and the mean IoU."""
        return {
            **self.scores.metrics,
            "boundary_AP": self.boundaries.metrics["AP"],
            "mean_iou": round(self.mean_iou, 6),
        }


def mask_failures(truth: Truth, results: Results, outcomes: Outcomes) -> MaskFailures | None:
    """Nothing where an object or a detection has no mask."""
    masks = None if results.masks is None else truth_masks(truth)
    if masks is None or results.masks is None:
        return None
    found = np.flatnonzero(outcomes.found_by >= 0)
    ious = np.full(len(masks), np.nan)
    ious[found] = paired_ious(results.masks[outcomes.found_by[found]], masks[found])
    return MaskFailures(
        score(truth, results, masks=masks),
        score(truth, results, masks=masks, counting=with_boundaries),
        masks,
        results.masks,
        ious,
    )


def poor_masks(truth: Truth, results: Results, outcomes: Outcomes, masks: MaskFailures) -> Iterator[Suspect]:
    """Found objects whose mask is another one than the predicted, the more suspicious the surer that is."""
    for n in np.flatnonzero(masks.ious < TIGHT).tolist():
        found = int(outcomes.found_by[n])
        iou, sure = float(masks.ious[n]), float(results.scores[found])
        if sure * (1 - iou) >= LEAST:
            yield Suspect(
                "poor_mask",
                sure * (1 - iou),
                int(truth.of_image[n]),
                int(truth.of_category[n]),
                tuple(truth.boxes[n].tolist()),
                sure,
                annotation_id=int(truth.annotation_ids[n]),
                suggested_box=tuple(results.boxes[found].tolist()),
                iou=iou,
                mask=plain(masks.objects[n]),
                suggested_mask=plain(masks.detections[found]),
            )


def plain(mask: RunLengths) -> dict[str, Any]:
    """Run lengths for JSON."""
    return {"size": list(mask["size"]), "counts": mask["counts"].decode("ascii")}
