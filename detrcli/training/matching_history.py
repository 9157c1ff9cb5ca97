"""The matching of the same few pictures at every evaluation, kept so that one sees how steady it becomes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from torch import Tensor

from detrcli.data.annotations import Annotations
from detrcli.data.dataset import DetectionDataset, Example
from detrcli.errors import DataError
from detrcli.inference.detector import Detector
from detrcli.inspection.matching import UNMATCHED, changed, queries_of
from detrcli.losses.matching import HungarianMatcher
from detrcli.system.files import write_arrays

FILE = "matching.npz"
MOST = 32  # pictures
SECONDS = 0.5  # that the first evaluation may take for them, and so the later ones


@dataclass(frozen=True)
class Matchings:
    """E evaluations of L layers on some pictures with T objects in all."""

    image_ids: np.ndarray  # (P,)
    counts: np.ndarray  # (P,), objects of each
    epochs: np.ndarray  # (E,), rising
    queries: np.ndarray  # (E, L, T), int32; UNMATCHED for an object without one

    @property
    def moved(self) -> np.ndarray:
        """How many objects have another query than at the evaluation before, (E - 1, L)."""
        count: np.ndarray = changed(self.queries[:-1], self.queries[1:]).sum(2)
        return count

    @property
    def shares(self) -> np.ndarray:
        """The same as shares of all objects, (E - 1, L): the instability of arXiv 2203.01305."""
        part: np.ndarray = self.moved / max(1, int(self.counts.sum()))
        return part

    def before(self, epoch: int) -> "Matchings":
        """Without what a training that was stopped and resumed does again."""
        kept = self.epochs < epoch
        return Matchings(self.image_ids, self.counts, self.epochs[kept], self.queries[kept])


def append(run: Path, epoch: int, detector: Detector, truth: Annotations, matcher: HungarianMatcher) -> None:
    """Match once more, and write all of it anew. The pictures are those of the first evaluation."""
    try:
        old = read(run).before(epoch)
    except DataError:
        old = None
    now = _match(detector, truth, matcher, epoch, None if old is None else old.image_ids)
    if now is None:
        return
    if (
        old is not None
        and np.array_equal(old.image_ids, now.image_ids)
        and np.array_equal(old.counts, now.counts)
        and old.queries.dtype == now.queries.dtype  # an earlier version knew chosen queries by their rank
    ):
        now = Matchings(
            now.image_ids,
            now.counts,
            np.concatenate([old.epochs, now.epochs]),
            np.concatenate([old.queries, now.queries]),
        )
    write_arrays(run / FILE, vars(now))


def read(run: Path) -> Matchings:
    """What a training kept."""
    path = run / FILE
    try:
        with path.open("rb") as opened, np.load(opened) as file:
            return Matchings(file["image_ids"], file["counts"], file["epochs"], file["queries"])
    except FileNotFoundError:
        raise DataError(f"{run}: no matching was kept in it (no {FILE}).") from None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise DataError(f"{path}: this is no whole file of matchings ({error}).") from None


def _match(
    detector: Detector, truth: Annotations, matcher: HungarianMatcher, epoch: int, image_ids: np.ndarray | None
) -> Matchings | None:
    """The pictures with these ids; else some that lie evenly over the split, as many as the time allows.

    None where there is no such picture: none that can be read, or none with an object.
    """
    dataset = DetectionDataset(truth, detector.preprocessing, augmentation="none")
    places = _places(truth, image_ids)
    began = time.perf_counter()
    seen: list[tuple[int, np.ndarray]] = []
    for i in places:
        example = dataset[0, i]
        if not isinstance(example, Example):
            continue  # the evaluation says so
        output, target = detector.output([example.pixels]), example.target.to(detector.device)
        queries = queries_of(output.decoder, target, matcher)  # (L, N)
        seen.append((example.image_id, known_by_tokens(queries, output.decoder.tokens)))
        if image_ids is None and time.perf_counter() - began > SECONDS:
            break
    if not seen:
        return None
    return Matchings(
        image_ids=np.array([image_id for image_id, _ in seen], dtype=np.int64),
        counts=np.array([queries.shape[1] for _, queries in seen], dtype=np.int64),
        epochs=np.array([epoch]),
        queries=np.concatenate([queries for _, queries in seen], axis=1)[None].astype(np.int32),
    )


def known_by_tokens(queries: np.ndarray, tokens: Tensor | None) -> np.ndarray:
    """Matched queries (L, N) of a single image by the tokens (1, Q) that they were chosen from.

    The number of such a query is its rank among those chosen, which changes whenever another one is surer.
    """
    if tokens is None:
        return queries
    known: np.ndarray = np.where(queries == UNMATCHED, UNMATCHED, tokens[0].cpu().numpy()[queries])
    return known


def _places(truth: Annotations, image_ids: np.ndarray | None) -> Sequence[int]:
    if image_ids is not None:
        place = {image_id: i for i, image_id in enumerate(truth.image_ids.tolist())}
        return [place[image_id] for image_id in image_ids.tolist() if image_id in place]
    with_objects = np.flatnonzero(truth.counts.numpy())
    # Spread over the split, in an order in which any first few are spread, too.
    return with_objects[np.random.default_rng(0).permutation(len(with_objects))[:MOST]].tolist()
