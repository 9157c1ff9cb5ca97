"""The matching of the same images at every evaluation of a training, which shows how stable it becomes."""

import time
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from torch import Tensor

from detrcli.data.annotations import Annotations
from detrcli.data.dataset import DetectionDataset, Example
from detrcli.errors import DataError
from detrcli.inference.detector import Detector
from detrcli.inspection.matching import UNMATCHED, queries_of
from detrcli.losses.matching import HungarianMatcher
from detrcli.system.files import write_arrays

FILE = "matching.npz"
MAX_IMAGES = 32
SECONDS = 0.5  # of the first evaluation; later evaluations match the same images


@dataclass(frozen=True)
class Matchings:
    """The matchings of E evaluations in L layers, of P images with T objects in total."""

    image_ids: np.ndarray  # (P,)
    counts: np.ndarray  # (P,), objects of each image
    epochs: np.ndarray  # (E,), ascending
    queries: np.ndarray  # (E, L, T) int32; UNMATCHED for objects without a query

    @property
    def moved(self) -> np.ndarray:
        """The number of objects with another query than in the evaluation before, (E - 1, L)."""
        return (self.queries[1:] != self.queries[:-1]).sum(2)

    @property
    def shares(self) -> np.ndarray:
        """The same as shares of all objects, (E - 1, L): the instability of arXiv 2203.01305."""
        return self.moved / max(1, int(self.counts.sum()))


def append(run: Path, epoch: int, detector: Detector, truth: Annotations, matcher: HungarianMatcher) -> None:
    """Match the images of the first evaluation again, or as many as the time allows, and add the result to the file."""
    try:
        old = read(run)
        index_of = {image_id: i for i, image_id in enumerate(truth.image_ids.tolist())}
        indices = [index_of[image_id] for image_id in old.image_ids.tolist() if image_id in index_of]
    except DataError:
        old = None
        with_objects = np.flatnonzero(truth.counts.numpy())
        # In random order, so that the first few are spread over the split too.
        indices = with_objects[np.random.default_rng(0).permutation(len(with_objects))[:MAX_IMAGES]].tolist()
    dataset = DetectionDataset(truth, detector.preprocessing, augmentation="none")
    began = time.perf_counter()
    matched: list[tuple[int, np.ndarray]] = []
    for i in indices:
        example = dataset[0, i]
        if not isinstance(example, Example):
            continue  # reported by the evaluation
        output, target = detector.output([example.pixels]), example.target.to(detector.device)
        queries = queries_of(output.decoder, target, matcher)  # (L, N)
        matched.append((example.image_id, known_by_tokens(queries, output.decoder.tokens)))
        if old is None and time.perf_counter() - began > SECONDS:
            break
    if not matched:
        return
    image_ids = np.array([image_id for image_id, _ in matched], dtype=np.int64)
    counts = np.array([queries.shape[1] for _, queries in matched], dtype=np.int64)
    epochs = np.array([epoch])
    queries = np.concatenate([queries for _, queries in matched], axis=1)[None].astype(np.int32)
    if old is not None and np.array_equal(old.image_ids, image_ids) and np.array_equal(old.counts, counts):
        kept = old.epochs < epoch  # a resumed training may repeat an evaluation
        epochs, queries = np.concatenate([old.epochs[kept], epochs]), np.concatenate([old.queries[kept], queries])
    write_arrays(run / FILE, vars(Matchings(image_ids, counts, epochs, queries)))


def read(run: Path) -> Matchings:
    """Read the matchings of a run. Raises DataError."""
    path = run / FILE
    try:
        with path.open("rb") as opened, np.load(opened) as file:
            return Matchings(file["image_ids"], file["counts"], file["epochs"], file["queries"])
    except FileNotFoundError:
        raise DataError(f"{run}: no matching history (no {FILE}).") from None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise DataError(f"{path}: not a matching history ({error}).") from None


def known_by_tokens(queries: np.ndarray, tokens: Tensor | None) -> np.ndarray:
    """Replace matched queries (L, N) of an image by the encoder tokens (1, Q) that they were selected from, if any.

    The index of a selected query is its rank by score, which changes whenever another token gets a higher score.
    """
    if tokens is None:
        return queries
    return np.where(queries == UNMATCHED, UNMATCHED, tokens[0].cpu().numpy()[queries])
