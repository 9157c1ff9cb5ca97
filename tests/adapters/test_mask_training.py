"""Training of mask classifiers by their own loss, and the commands that match queries with objects."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from families import CLASSES, images
from here import Detr, torchrun
from mask_families import ENCODERS, NAMES, QUERIES, folder_of
from trainings import assert_resumes_to_the_same_bits, change_annotations, shapes_folder, without_first_objects
from transformers import AutoImageProcessor, AutoModelForUniversalSegmentation

from detrcli.checkpoints.fit import fit
from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.make import make_shapes
from detrcli.data.preprocessing import collate, prepare
from detrcli.inference.detector import Detector
from detrcli.structures import Batch, Classes, QueryGroup, Target

QUICK = ("--epochs", 1, "--batch-size", 4, "--set", "workers=0", "--no-report")
data = shapes_folder(images=12, size=64, objects=3)


@pytest.fixture(
    params=[
        "mask2former",
        *(pytest.param(n, marks=pytest.mark.slow) for n in (*NAMES, *ENCODERS) if n != "mask2former"),
    ]
)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def batch_of(checkpoint: Any) -> Batch:
    pixels = prepare(next(images()), checkpoint.preprocessing)
    return collate([pixels, pixels.flip(2), pixels.flip(1)])


def target(batch: Batch, *labels: int) -> Target:
    """Objects of ellipses."""
    boxes = torch.rand(len(labels), 4, generator=torch.Generator().manual_seed(len(labels))) * 0.3 + 0.2
    height, width = batch.images.shape[-2:]
    x, y = (torch.arange(width) + 0.5) / width, ((torch.arange(height) + 0.5) / height)[:, None]
    cx, cy, w, h = (value[:, None, None] for value in boxes.unbind(-1))
    masks = ((x - cx) / w) ** 2 + ((y - cy) / h) ** 2 < 0.25
    return Target(torch.tensor(labels, dtype=torch.long), boxes, masks=masks)


@pytest.mark.parametrize("objects", [((0, 3, 3), (), (4, 1)), ((), (), ())])
def test_the_loss_is_that_of_transformers(name: str, objects: tuple[tuple[int, ...], ...]) -> None:
    """For the same network, labels and random state, also without objects."""
    checkpoint = load_checkpoint(str(folder_of(name)))
    batch = batch_of(checkpoint)
    targets = [target(batch, *labels) for labels in objects]
    model = checkpoint.model().train()
    torch.manual_seed(5)
    breakdown = checkpoint.make_loss().compute_loss(model(batch, targets), targets)
    network = AutoModelForUniversalSegmentation.from_pretrained(folder_of(name)).train()
    labels = {
        "mask_labels": [own.masks.float() for own in targets if own.masks is not None],
        "class_labels": [own.labels for own in targets],
    }
    torch.manual_seed(5)
    theirs = network(batch.images, **labels).loss
    torch.testing.assert_close(breakdown.total, theirs)
    assert breakdown.parts.keys() == {"cross_entropy", "mask", "dice"}
    if name == "maskformer":
        torch.testing.assert_close(sum(breakdown.parts.values()), theirs)
    else:  # which also supervises the layers before the last
        assert sum(breakdown.parts.values()) < breakdown.total
    breakdown.total.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert len(breakdown.matches["decoder"].layer(0).targets) == sum(map(len, objects))


def test_masks_are_padded_like_the_images(name: str) -> None:
    """Images of two sizes in a batch."""
    if name in ENCODERS:
        return  # all inputs have the same size
    checkpoint = load_checkpoint(str(folder_of(name)))
    pixels = prepare(next(images()), checkpoint.preprocessing)
    batch = collate([pixels, pixels[:, :, :32]])
    targets = [target(Batch(image[None], None), 1, 2) for image in (pixels, pixels[:, :, :32])]
    model = checkpoint.model().train()
    torch.manual_seed(5)
    loss = checkpoint.make_loss().compute_loss(model(batch, targets), targets).total
    network = AutoModelForUniversalSegmentation.from_pretrained(folder_of(name)).train()
    width = pixels.shape[2]
    masks = [F.pad(own.masks.float(), (0, width - own.masks.shape[2])) for own in targets if own.masks is not None]
    torch.manual_seed(5)
    theirs = network(batch.images, mask_labels=masks, class_labels=[own.labels for own in targets]).loss
    torch.testing.assert_close(loss, theirs)


def test_matching(name: str) -> None:
    """Pairs are those of the network's matcher, which compares Mask2Former's masks at random points."""
    checkpoint, random = load_checkpoint(str(folder_of(name))), torch.Generator().manual_seed(0)
    images, queries, height, width = 12, QUERIES, 40, 56
    where = torch.rand(images, queries + 4, 4, generator=random) * 0.4 + 0.1
    x, y = (torch.arange(width) + 0.5) / width, ((torch.arange(height) + 0.5) / height)[:, None]
    cx, cy, w, h = (value[..., None, None] for value in (where + where.new_tensor([0.1, 0.1, 0, 0])).unbind(-1))
    ellipses = 4 - 8 * (((x - cx) / w) ** 2 + ((y - cy) / h) ** 2)  # (images, queries + 4, height, width), logits
    mask_logits, truth = ellipses[:, :queries], ellipses[:, queries:] > 0
    truth = truth.repeat_interleave(4, 2).repeat_interleave(4, 3)  # at the size of the input
    logits = torch.randn(1, images, queries, len(CLASSES) + 1, generator=random)
    labels = torch.randint(0, len(CLASSES), (images, 4), generator=random)
    group = QueryGroup("decoder", logits, torch.rand(1, images, queries, 4), mask_logits=[mask_logits])
    targets = [Target(labels[i], torch.rand(4, 4), masks=truth[i]) for i in range(images)]
    matcher = checkpoint.make_loss().matcher
    assert matcher is not None
    match, costs = matcher(group, targets), matcher.costs(logits, group.boxes, targets, [mask_logits])
    total = matcher.total(costs)[0].view(images, 4, queries)
    torch.manual_seed(0)
    theirs = checkpoint.model().network.criterion.matcher(mask_logits, logits[0], list(truth.float()), list(labels))
    equal = 0
    for image, (chosen, objects) in enumerate(theirs):
        here = match.images == image
        ours = match.queries[here], match.targets[here] - 4 * image
        equal += set(zip(*map(torch.Tensor.tolist, ours), strict=True)) == set(
            zip(chosen.tolist(), objects.tolist(), strict=True)
        )
        gap = total[image, objects, chosen].sum() - total[image, ours[1], ours[0]].sum()
        assert -1e-4 < gap < 0.02 * total[image].abs().mean() * 4
    assert equal == 12 if name == "maskformer" else equal >= 6


@pytest.mark.slow
def test_transformers_reads_the_checkpoint_of_a_training(name: str, data: Path, detr: Detr) -> None:
    """With more queries. Masks are evaluated."""
    more = ("--set", f"queries={QUERIES + 3}")
    detr("train", data, "--weights", folder_of(name), "--out", "run", *QUICK, *more).ok()
    assert "mask_AP" in Path("run/metrics.csv").read_text()
    last = Path("run/last")
    network: Any = AutoModelForUniversalSegmentation.from_pretrained(last).eval()
    processor, checkpoint = AutoImageProcessor.from_pretrained(last), load_checkpoint(str(last))
    assert list(network.config.id2label.values()) == list(CLASSES.values())
    image = next(images())
    with torch.no_grad():
        output = network(processor(images=image, return_tensors="pt")["pixel_values"])
    assert output.class_queries_logits.shape[1] == QUERIES + 3 == checkpoint.config.queries
    options = {} if name in ENCODERS else {"return_binary_maps": True}
    (theirs,) = processor.post_process_instance_segmentation(
        output, threshold=0.0, target_sizes=[image.size[::-1]], **options
    )
    found = Detector(checkpoint, "cpu", engine="plain").predict(image, threshold=0.0)
    assert len(found) == len(theirs["segments_info"]) > 0
    scores = sorted(info["score"] for info in theirs["segments_info"])
    np.testing.assert_allclose(sorted(found.scores), scores, atol=1e-4)


def test_queries_and_classes(name: str) -> None:
    """Kept rows are equal bit for bit."""
    before = load_checkpoint(str(folder_of(name)))
    after = fit(before, Classes.of(range(3), ["star", "moon", "circle"]), QUERIES + 4).checkpoint
    grown = 0
    for key, tensor in after.tensors.items():
        old = before.tensors[key]
        if "class_predictor" in key:
            assert torch.equal(tensor[[0, 2, 3]], old[[3, 0, 5]])
        elif "quer" in key and tensor.shape != old.shape:
            assert torch.equal(tensor[:QUERIES], old)
            grown += 1
        elif tensor.shape == old.shape:
            assert torch.equal(tensor, old), key
    assert grown
    with torch.no_grad():
        assert after.model()(batch_of(after)).last.logits.shape[1:] == (QUERIES + 4, 4)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_it_resumes_to_the_same_bits(name: str, data: Path, tmp_path: Path) -> None:
    facts: dict[str, Any] = {"weights": str(folder_of(name)), "model": None, "queries": None, "size": None}
    assert_resumes_to_the_same_bits(data, tmp_path, step=4, **facts)


@pytest.mark.slow
def test_two_processes(name: str, tmp_path: Path) -> None:
    """Also with batches without objects."""
    make_shapes(tmp_path / "data", images=8, size=64, objects=2)
    change_annotations(tmp_path / "data", without_first_objects, "train")
    done = torchrun(
        "train", tmp_path / "data", "--weights", folder_of(name), *QUICK, "--epochs", 2, "--batch-size", 1,
        "--out", tmp_path / "run", "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    AutoModelForUniversalSegmentation.from_pretrained(tmp_path / "run" / "last")


@pytest.mark.slow
def test_inspection(name: str, data: Path, detr: Detr) -> None:
    weights = ("--weights", folder_of(name))
    shown = detr("match-debug", data, *weights, "--out", "m.png", "--json").ok()
    layers = shown.json["layers"]
    assert {"class", "mask", "dice", "total"} == layers[-1]["cost"].keys()
    objects = len(shown.json["targets"])
    assert all(len(layer["pairs"]) == objects for layer in layers)
    detr("match-debug", data, "--all", *weights).ok()
    detr("explain", data / "val" / "000000.png", *weights).ok()
    report, evaluated = (
        detr(command, data, *weights, *more, "--json").json["metrics"]
        for command, more in (("report", ("--out", "report")), ("eval", ()))
    )
    assert report["AP"] == pytest.approx(evaluated["AP"], abs=1e-6)
