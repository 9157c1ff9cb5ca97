"""From a checked dataset to batches: ids, boxes, shared memory, caching, and images that break later."""

import json
import pickle
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader

from detrcli.config import Preprocessing
from detrcli.data.annotations import Annotations, _hash, annotate, classes_in_report
from detrcli.data.dataset import (
    DetectionDataset,
    Example,
    Examples,
    collate_examples,
    raise_unreadable,
)
from detrcli.data.examine import examine
from detrcli.data.preprocessing import prepare
from detrcli.data.source import open_data
from detrcli.errors import DataError
from detrcli.resize import ShortestEdge
from detrcli.structures import Classes

IDS = [4_000_000_007, 3, 90]  # of bee, ant, cow: unordered, with gaps and ten digits


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five images: the second empty, the third with a crowd, the fourth with a box partly outside and an empty box."""
    boxes: dict[int, list[tuple[int, list[float], int]]] = {
        1: [(3, [10, 5, 20, 10], 0), (4_000_000_007, [0, 0, 60, 40], 0)],
        2: [],
        3: [(90, [1, 2, 30, 30], 1), (90, [5, 5, 9, 9], 0)],
        4: [(3, [50, 30, 30, 30], 0), (3, [5, 5, 0, 7], 0)],
        5: [(4_000_000_007, [7, 7, 7, 7], 0)],
    }
    (tmp_path / "train").mkdir()
    rng = np.random.default_rng(0)
    for i in boxes:
        pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
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
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(document))
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(document))
    (tmp_path / "val").symlink_to(tmp_path / "train")
    return tmp_path


@pytest.fixture
def truth(root: Path) -> tuple[Annotations, Classes]:
    examined = examine(open_data(root))
    classes = classes_in_report(examined)
    return annotate(examined.splits["train"], classes), classes


def test_labels_are_contiguous_and_ids_are_kept(truth: tuple[Annotations, Classes]) -> None:
    annotations, classes = truth
    assert classes.ids.tolist() == [3, 90, 4_000_000_007]
    assert classes.names.tolist() == ["ant", "cow", "bee"]
    assert annotations.image_ids.tolist() == [400, 100, 300, 500, 200]
    found = {
        int(annotations.image_ids[i]): [
            (classes.ids[label], box.tolist()) for box, label in zip(*annotations.objects(i).values(), strict=True)
        ]
        for i in range(len(annotations))
    }
    assert found == {
        100: [(3, [10, 5, 30, 15]), (4_000_000_007, [0, 0, 60, 40])],
        200: [],
        300: [(90, [5, 5, 14, 14])],
        400: [(3, [50, 30, 60, 40])],
        500: [(4_000_000_007, [7, 7, 14, 14])],
    }


def test_loader_processes_share_the_memory(truth: tuple[Annotations, Classes]) -> None:
    """The pickled size does not grow with the number of boxes."""
    annotations, _ = truth
    dataset = DetectionDataset(annotations, Preprocessing(), augmentation="published")
    small = len(ForkingPickler.dumps(dataset))
    large = Annotations(**{**vars(annotations), "boxes": torch.zeros(5_000_000, 4).share_memory_()})
    assert (
        abs(len(ForkingPickler.dumps(DetectionDataset(large, Preprocessing(), augmentation="published"))) - small) < 200
    )
    assert len(pickle.dumps(large)) > 50_000_000


def test_evaluation_prepares_images_as_prediction(truth: tuple[Annotations, Classes]) -> None:
    annotations, _ = truth
    p = Preprocessing(ShortestEdge(64, 100))
    example = DetectionDataset(annotations, p, augmentation="none")[1, 1]
    assert isinstance(example, Example)
    with Image.open(annotations.path(1)) as image:
        assert torch.equal(example.pixels, prepare(image.convert("RGB"), p))
    torch.testing.assert_close(example.target.boxes[0], torch.tensor([1 / 3, 0.25, 1 / 3, 0.25]))
    assert example.image_id == 100


def loaded(annotations: Annotations, workers: int, epoch: int = 1) -> list[Examples]:
    dataset = DetectionDataset(annotations, Preprocessing(ShortestEdge(64, 100)), augmentation="published", seed=5)
    batches = [[(epoch, i) for i in batch] for batch in ([0, 1], [2, 3], [4])]
    loader: Any = DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=collate_examples)
    return list(raise_unreadable(loader))


def test_augmentation_depends_on_seed_epoch_and_image_only(truth: tuple[Annotations, Classes]) -> None:
    annotations, _ = truth
    alone, two, later = loaded(annotations, 0), loaded(annotations, 2), loaded(annotations, 0, epoch=2)
    for a, b in zip(alone, two, strict=True):
        assert torch.equal(a.batch.images, b.batch.images)
        assert a.image_ids == b.image_ids
        assert all(torch.equal(x.boxes, y.boxes) for x, y in zip(a.targets, b.targets, strict=True))
    assert [i for batch in alone for i in batch.image_ids] == [400, 100, 300, 500, 200]
    assert any(
        a.batch.images.shape != b.batch.images.shape or not torch.equal(a.batch.images, b.batch.images)
        for a, b in zip(alone, later, strict=True)
    )


def test_cached_images_give_the_same_examples(truth: tuple[Annotations, Classes]) -> None:
    annotations, _ = truth
    bytes_of_all = 4 * sum(h * w for h, w in annotations.sizes.tolist())
    p = Preprocessing(ShortestEdge(64, 100))
    reading, keeping, too_few = (
        DetectionDataset(annotations, p, augmentation="strong", seed=5, cache_bytes=cache_bytes)
        for cache_bytes in (0, bytes_of_all, bytes_of_all - 1)
    )
    wanted = [reading[epoch, i] for epoch in (1, 2) for i in range(len(annotations))]
    found = [keeping[epoch, i] for epoch in (1, 2) for i in range(len(annotations))]
    for a, b in zip(wanted, found, strict=True):
        assert isinstance(a, Example)
        assert isinstance(b, Example)
        assert torch.equal(a.pixels, b.pixels)
        assert torch.equal(a.target.boxes, b.target.boxes)
    assert isinstance(too_few[1, 0], Example)
    annotations.path(0).unlink()  # it is not read again
    assert isinstance(keeping[3, 0], Example)
    assert isinstance(too_few[3, 0], DataError)


def test_flips_mirror_half_of_the_images(truth: tuple[Annotations, Classes]) -> None:
    annotations, _ = truth
    p = Preprocessing(ShortestEdge(64, 100))
    plain, flipping = (DetectionDataset(annotations, p, augmentation=which) for which in ("none", "flip"))
    flipped = 0
    for epoch in range(40):
        for i in range(len(annotations)):
            here, there = flipping[epoch, i], plain[epoch, i]
            assert isinstance(here, Example)
            assert isinstance(there, Example)
            assert torch.equal(here.target.labels, there.target.labels)
            if torch.equal(here.pixels, there.pixels):
                torch.testing.assert_close(here.target.boxes, there.target.boxes)
                continue
            flipped += 1
            with Image.open(annotations.path(i)) as image:
                mirrored = ImageOps.mirror(image.convert("RGB"))
            assert torch.equal(here.pixels, prepare(mirrored, p))
            cx, cy, w, h = there.target.boxes.unbind(1)
            torch.testing.assert_close(here.target.boxes, torch.stack([1 - cx, cy, w, h], dim=1))
    assert 70 <= flipped <= 130  # of 200


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_breaks_later_is_named(truth: tuple[Annotations, Classes], workers: int) -> None:
    annotations, _ = truth
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


def test_supercategories_are_no_classes(root: Path) -> None:
    for split in ("train", "val"):
        path = root / "annotations" / f"instances_{split}.json"
        document = json.loads(path.read_text())
        document["categories"].append({"id": 0, "name": "animals", "supercategory": "none"})
        for category in document["categories"][:3]:
            category["supercategory"] = "animals"
        path.write_text(json.dumps(document))
    assert classes_in_report(examine(open_data(root))).names.tolist() == ["ant", "cow", "bee"]
