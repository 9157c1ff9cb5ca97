"""The way of MaskFormer (arXiv 2107.06278): a query is a class and a mask, each with a probability, and no box."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detrcli.boxes import masks_to_boxes
from detrcli.errors import NOT_FINITE, DivergedError
from detrcli.losses.scoring import NO_OBJECT, Scoring
from detrcli.resize import Placement
from detrcli.run_lengths import MaskRows, box_around, encode
from detrcli.segmentation.maps import MapKind, PanopticMap, Segment, SemanticMap, is_thing
from detrcli.segmentation.masks import TOGETHER, in_picture
from detrcli.segmentation.segmentation import MapMaker, Predicted, Segmentation
from detrcli.structures import Classes, Detections

NO_THING = -1  # in place of a query: of stuff there is one segment, whoever has seen it


@dataclass(frozen=True)
class MaskClassification(Segmentation):
    """Scores count how sure the mask is, boxes lie around masks, and maps are made of probabilities."""

    side: int | None = None  # of the square that masks are enlarged to before all else; None: they stay as they come
    threshold: float = 0.5  # of panoptic maps: the score that a query must pass to take part
    least_probability: float = 0.5  # of a pixel that a query claims
    least_share: float = 0.8  # of the pixels it claims, which a query must get: else its segment goes

    @property
    def maps(self) -> Mapping[MapKind, MapMaker]:
        return {
            "panoptic": self.panoptic,
            "semantic": lambda of, classes, scoring, _threshold: self.semantic(of, classes, scoring),
        }

    def with_masks(self, found: Detections, of: Predicted, threshold: float) -> Detections:
        """A score is multiplied by the mean probability of the mask's pixels; those without a pixel go."""
        # A query may stand in several detections and has one mask.
        asked, places = np.unique(found.queries, return_inverse=True)
        counts: list[bytes] = []
        boxes, sure = [np.zeros((0, 4), np.int64)], [np.zeros(0, np.float32)]
        for some in self._split(of, torch.from_numpy(asked)):
            logits = self._logits(of, some)  # (n, h, w)
            inside = logits > 0
            within = (logits.sigmoid() * inside).flatten(1).sum(1)
            sure.append((within / (inside.flatten(1).sum(1) + 1e-6)).cpu().numpy())
            whole = Placement.filling(*inside.shape[1:])
            masks = in_picture(inside, of.size, whole, by_corner=True)  # (n, height, width)
            boxes.append(masks_to_boxes(masks).cpu().numpy())
            counts += [encode(mask) for mask in masks.cpu().numpy()]
        box, scores = np.concatenate(boxes)[places], found.scores * np.concatenate(sure)[places]
        kept = np.flatnonzero((scores >= threshold) & (box[:, 2] > box[:, 0]))
        changed = replace(found, boxes=box.astype(np.float32), scores=scores, masks=MaskRows(of.size, counts)[places])
        return changed.part(kept)

    def panoptic(
        self, of: Predicted, classes: Classes, scoring: Scoring, threshold: float | None = None
    ) -> PanopticMap:
        """The segment of every pixel.

        A pixel goes to the query whose probability of it, times the score, is highest. A query keeps its pixels where
        they are most of those that it claims; else they are nobody's. Queries of the same stuff are one segment, with
        the score of the first of them.
        """
        logits = of.prediction.logits[of.image]
        labels = scoring.top_class(logits)  # (Q,)
        scores = scoring.probabilities(logits).amax(-1)  # (Q,)
        least = self.threshold if threshold is None else threshold
        chosen = ((labels != NO_OBJECT) & (scores > least)).nonzero()[:, 0]  # (n,)
        if not len(chosen):
            return PanopticMap(np.zeros(of.size, dtype=np.int32), [])
        highest = _Highest(of.size, logits.device)
        claimed: list[int] = []
        for some in self._split(of, chosen):
            found = _enlarged(self._logits(of, some).sigmoid(), of.size)  # (n, height, width)
            found *= scores[some][:, None, None]
            claimed += (found >= self.least_probability).flatten(1).sum(1).tolist()
            highest.add(found)
        owners = highest.owners.cpu().numpy()
        areas = np.bincount(owners.ravel(), minlength=len(chosen))
        # In float32, in which four fifths are more than 0.8.
        shares = (areas / np.maximum(claimed, 1)).astype(np.float32)
        stays = (areas > 0) & (np.array(claimed) > 0) & (shares.astype(np.float64) > self.least_share)

        first: dict[tuple[int, int], tuple[int, int]] = {}  # of what is one segment: its id, its first query
        ids = np.zeros(len(chosen), dtype=np.int32)  # of the segment of each
        for place in np.flatnonzero(stays).tolist():
            label = int(labels[chosen[place]])
            one = (label, place if is_thing(classes, label) else NO_THING)
            ids[place], _ = first.setdefault(one, (len(first) + 1, place))
        map_ = ids[owners]
        segments = []
        for id_, place in first.values():
            mask, label = map_ == id_, int(labels[chosen[place]])
            segments.append(
                Segment(
                    id=id_,
                    query=int(chosen[place]),
                    category_id=int(classes.ids[label]),
                    label=str(classes.names[label]),
                    thing=is_thing(classes, label),
                    score=float(scores[chosen[place]]),
                    area=int(mask.sum()),
                    box=box_around(mask),
                )
            )
        return PanopticMap(map_, segments)

    def semantic(self, of: Predicted, classes: Classes, scoring: Scoring) -> SemanticMap:
        """The class of every pixel: of the highest sum, over all queries, of both probabilities multiplied."""
        of_class = scoring.probabilities(of.prediction.logits[of.image])  # (Q, K)
        of_pixel = self._logits(of, torch.arange(len(of_class), device=of_class.device)).sigmoid()  # (Q, h, w)
        together = torch.einsum("bqk,bqhw->bkhw", of_class[None], of_pixel[None])[0]  # (K, h, w)
        highest = _Highest(of.size, of_class.device)
        for some in torch.split(together, TOGETHER):
            highest.add(_enlarged(some, of.size))
        return SemanticMap.of(highest.owners.cpu().numpy(), classes)

    def _split(self, of: Predicted, queries: Tensor) -> Iterator[Tensor]:
        """A few of the queries at a time: at the picture's size a mask takes some memory."""
        if len(queries):
            yield from torch.split(queries.to(of.prediction.logits.device), TOGETHER)

    def _logits(self, of: Predicted, queries: Tensor) -> Tensor:
        """Mask logits (n, h, w) of some queries."""
        logits = of.masks(torch.full_like(queries, of.image), queries)
        if not logits.isfinite().all():  # else a broken mask would be an empty one, which is left out
            raise DivergedError(NOT_FINITE)
        return logits if self.side is None else _enlarged(logits, (self.side, self.side))


class _Highest:
    """For every pixel of a picture which of many maps is the highest there, of equal ones the first."""

    def __init__(self, size: tuple[int, int], device: torch.device) -> None:
        self.values = torch.full(size, -torch.inf, device=device)
        self.owners = torch.zeros(size, dtype=torch.long, device=device)
        self.seen = 0

    def add(self, maps: Tensor) -> None:
        """The next (n, height, width) of them."""
        top, places = maps.max(0)
        better = top > self.values
        self.values = torch.where(better, top, self.values)
        self.owners = torch.where(better, places + self.seen, self.owners)
        self.seen += len(maps)


def _enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (n, h, w) of a size, (n, height, width)."""
    return F.interpolate(maps[None], size=size, mode="bilinear")[0]
