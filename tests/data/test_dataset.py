"""From a checked dataset to batches: ids, boxes, shared memory, caching, images that break later, and the results."""

import itertools
import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import folders
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader

from detrcli.config import Preprocessing
from detrcli.data.annotations import Annotations, _hash
from detrcli.data.dataset import DetectionDataset, Example, Examples, collate_examples, raise_unreadable
from detrcli.data.preprocessing import prepare
from detrcli.errors import DataError, loader_was_killed
from detrcli.resize import ShortestEdge
from detrcli.structures import Batch, Detections, Match, Target

SMALL = Preprocessing(ShortestEdge(64, 100))
IDS = [4_000_000_007, 3, 90]  # of bee, ant, cow: unordered, with gaps and ten digits


@pytest.fixture
def annotations(tmp_path: Path) -> Annotations:
    """Five images: the second empty, the third with a crowd, the fourth with a box partly outside and an empty box."""
    boxes: dict[int, list[tuple[int, list[float], int]]] = {
        1: [(3, [10, 5, 20, 10], 0), (4_000_000_007, [0, 0, 60, 40], 0)],
        2: [],
        3: [(90, [1, 2, 30, 30], 1), (90, [5, 5, 9, 9], 0)],
        4: [(3, [50, 30, 30, 30], 0), (3, [5, 5, 0, 7], 0)],
        5: [(4_000_000_007, [7, 7, 7, 7], 0)],
    }
    (tmp_path / "train").mkdir()
    for i, pixels in zip(boxes, np.random.default_rng(0).integers(0, 256, (5, 40, 60, 3), dtype=np.uint8), strict=True):
        Image.fromarray(pixels).save(tmp_path / "train" / f"ü {i}.png")
    document = {
        "images": [{"id": 100 * i, "file_name": f"ü {i}.png", "width": 60, "height": 40} for i in (4, 1, 3, 5, 2)],
        "annotations": [
            {"id": 1, "image_id": 100 * i, "category_id": c, "bbox": box, "iscrowd": crowd}
            for i, entries in reversed(boxes.items())
            for c, box, crowd in entries
        ],
        "categories": [{"id": i, "name": n} for i, n in zip(IDS, ["bee", "ant", "cow"], strict=True)],
    }
    for split in ("train", "val"):
        folders.written(tmp_path / "annotations" / f"instances_{split}.json", json.dumps(document))
    (tmp_path / "val").symlink_to(tmp_path / "train")
    return folders.annotated(tmp_path)[0]


def test_labels_are_contiguous_and_ids_are_kept(tmp_path: Path, annotations: Annotations) -> None:
    classes = folders.annotated(tmp_path)[1]
    assert classes.ids.tolist() == [3, 90, 4_000_000_007]
    assert classes.names.tolist() == ["ant", "cow", "bee"]
    assert annotations.image_ids.tolist() == [400, 100, 300, 500, 200]
    objects = map(annotations.objects, range(len(annotations)))
    assert {
        image_id: [(classes.ids[label], box.tolist()) for box, label in zip(*fields.values(), strict=True)]
        for image_id, fields in zip(annotations.image_ids.tolist(), objects, strict=True)
    } == {
        100: [(3, [10, 5, 30, 15]), (4_000_000_007, [0, 0, 60, 40])],
        200: [],
        300: [(90, [5, 5, 14, 14])],
        400: [(3, [50, 30, 60, 40])],
        500: [(4_000_000_007, [7, 7, 14, 14])],
    }


def test_loader_processes_share_the_memory(annotations: Annotations) -> None:
    """The pickled size does not grow with the number of boxes."""
    large = replace(annotations, boxes=torch.zeros(5_000_000, 4).share_memory_())
    small_size, large_size = (
        len(ForkingPickler.dumps(DetectionDataset(a, Preprocessing(), augmentation="published")))
        for a in (annotations, large)
    )
    assert abs(large_size - small_size) < 200
    assert len(pickle.dumps(large)) > 50_000_000


def test_evaluation_prepares_images_as_prediction(annotations: Annotations) -> None:
    example = DetectionDataset(annotations, SMALL, augmentation="none")[1, 1]
    with Image.open(annotations.path(1)) as image:
        assert torch.equal(example.pixels, prepare(image.convert("RGB"), SMALL))
    torch.testing.assert_close(example.target.boxes[0], torch.tensor([1 / 3, 0.25, 1 / 3, 0.25]))
    assert example.image_id == 100


def loaded(annotations: Annotations, workers: int, epoch: int = 1) -> list[Examples]:
    dataset = DetectionDataset(annotations, SMALL, augmentation="published", seed=5)
    batches = [[(epoch, i) for i in batch] for batch in ([0, 1], [2, 3], [4])]
    loader: Any = DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=collate_examples)
    return list(raise_unreadable(loader))


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()], ids=repr)
def test_a_loader_killed_while_it_sends_a_batch(error: Exception) -> None:
    def broken() -> Iterator[Examples]:
        raise error
        yield

    with pytest.raises(RuntimeError) as caught:
        list(raise_unreadable(broken()))
    assert loader_was_killed(caught.value)


def test_augmentation_depends_on_seed_epoch_and_image_only(annotations: Annotations) -> None:
    alone, two, later = loaded(annotations, 0), loaded(annotations, 2), loaded(annotations, 0, epoch=2)
    for a, b in zip(alone, two, strict=True):
        assert torch.equal(a.batch.images, b.batch.images)
        assert a.image_ids == b.image_ids
        assert all(torch.equal(x.boxes, y.boxes) for x, y in zip(a.targets, b.targets, strict=True))
    assert [i for batch in alone for i in batch.image_ids] == [400, 100, 300, 500, 200]
    assert not all(torch.equal(a.batch.images, b.batch.images) for a, b in zip(alone, later, strict=True))


def test_cached_images_give_the_same_examples(annotations: Annotations) -> None:
    bytes_of_all = 4 * sum(h * w for h, w in annotations.sizes.tolist())
    reading, keeping, too_few = (
        DetectionDataset(annotations, SMALL, augmentation="strong", seed=5, cache_bytes=cache_bytes)
        for cache_bytes in (0, bytes_of_all, bytes_of_all - 1)
    )
    for place in itertools.product((1, 2), range(len(annotations))):
        a, b = reading[place], keeping[place]
        assert torch.equal(a.pixels, b.pixels)
        assert torch.equal(a.target.boxes, b.target.boxes)
    assert isinstance(too_few[1, 0], Example)
    annotations.path(0).unlink()  # it is not read again
    assert isinstance(keeping[3, 0], Example)
    assert isinstance(too_few[3, 0], DataError)


def test_flips_mirror_half_of_the_images(annotations: Annotations) -> None:
    original, flipping = (DetectionDataset(annotations, SMALL, augmentation=kind) for kind in ("none", "flip"))
    flipped = 0
    for epoch, i in itertools.product(range(40), range(len(annotations))):
        plain, example = original[epoch, i], flipping[epoch, i]
        assert torch.equal(example.target.labels, plain.target.labels)
        if torch.equal(example.pixels, plain.pixels):
            torch.testing.assert_close(example.target.boxes, plain.target.boxes)
            continue
        flipped += 1
        with Image.open(annotations.path(i)) as image:
            assert torch.equal(example.pixels, prepare(ImageOps.mirror(image.convert("RGB")), SMALL))
        cx, cy, w, h = plain.target.boxes.unbind(1)
        torch.testing.assert_close(example.target.boxes, torch.stack([1 - cx, cy, w, h], dim=1))
    assert 70 <= flipped <= 130  # of 200


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_breaks_later_is_named(annotations: Annotations, workers: int) -> None:
    path = annotations.path(2)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError) as error:
        loaded(annotations, workers)
    assert str(error.value).startswith(f"{path}: it cannot be decoded")
    assert "Traceback" not in str(error.value)
    Image.new("RGB", (10, 10)).save(path)
    with pytest.raises(DataError, match="its size has changed"):
        loaded(annotations, workers)


def test_hashes_detect_changes_of_equal_length(tmp_path: Path) -> None:
    """In the middle of a long file, and in any byte of a short file; 0 for a missing file."""
    for length in (10, 4096, 4097, 50_000):
        whole = bytes(range(256)) * 200
        for place in (0, length // 2, length - 1) if length <= 4096 else (length // 2,):
            changed = bytearray(whole[:length])
            changed[place] ^= 1
            hashes = []
            for content in (whole[:length], bytes(changed), whole[:length]):
                (tmp_path / "a").write_bytes(content)
                hashes.append(_hash(tmp_path / "a"))
            assert hashes[0] == hashes[2] != hashes[1], (length, place)
    assert _hash(tmp_path / "nowhere") == 0


@dataclass(frozen=True)
class Tracked(Target):
    """A target with a further field."""

    tracks: Tensor  # (N,)


def test_targets_and_batches_are_moved() -> None:
    """To the meta device, which exists on every machine."""
    target = Tracked(torch.tensor([1, 2]), torch.rand(2, 4), torch.tensor([7, 8]))
    moved = target.to(torch.device("meta"))
    assert type(moved) is Tracked
    assert len(moved) == 2
    assert {field.device.type for field in (moved.labels, moved.boxes, moved.tracks)} == {"meta"}
    assert torch.equal(target.to(torch.device("cpu")).tracks, target.tracks)
    for padding in (None, torch.zeros(1, 4, 4, dtype=torch.bool)):
        batch = Batch(torch.zeros(1, 3, 4, 4), padding).to(torch.device("meta"))
        assert batch.images.device.type == "meta"
        assert (batch.padding is None) is (padding is None)


def test_pairs_of_a_layer() -> None:
    match = Match(*torch.tensor([[0, 0, 1], [0, 1, 1], [5, 6, 7], [2, 1, 0]]))
    assert [field.tolist() for field in vars(match.layer(0)).values()] == [[0, 0], [0, 1], [5, 6], [2, 1]]
    assert match.layer(1).queries.tolist() == [7]
    assert match.layer(2).queries.tolist() == []


def test_a_selection_of_detections() -> None:
    boxes, scores = np.arange(12.0).reshape(3, 4), np.array([0.9, 0.8, 0.7])
    detections = Detections(boxes, scores, np.array([4, 5, 4]), np.array([2, 2, 0]), np.array(["a", "b", "a"]))
    part = detections.part(detections.category_ids == 4)
    assert part.queries.tolist() == [2, 0]
    assert part.boxes[:, 0].tolist() == [0, 8]
    assert part.labels.tolist() == ["a", "a"]
