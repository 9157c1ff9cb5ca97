"""RF-DETR: what differs from the other closed-set detectors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import CLASSES, folder_of, images, truth_of_predictions
from here import Detr, torchrun
from instance_masks import folder_of as folder_of_masks
from judge import twelve
from PIL import Image
from pycocotools import mask as rle
from trainings import assert_resumes_to_the_same_bits, change_annotations, without_first_objects
from transformers import AutoImageProcessor, AutoModelForInstanceSegmentation
from transformers.loss import loss_rf_detr

from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.make import make_shapes
from detrcli.data.preprocessing import collate, prepare
from detrcli.inference.description import describe
from detrcli.inference.detector import Detector
from detrcli.losses.matching import HungarianMatcher
from detrcli.structures import Batch, Prediction, QueryGroup, Target


@pytest.mark.parametrize(("name", "clipped"), [("rf", True), ("lw", False)])
def test_boxes_are_clipped_to_the_image(name: str, clipped: bool) -> None:
    """As by the package `rfdetr`; with any engine, which exported models have instead of a network."""
    boxes = torch.tensor([[0.1, 0.9, 0.4, 0.4], [0.9, 0.1, 0.4, 0.4], [0.5, 0.5, 0.2, 0.2]])

    def engine(_batch: Batch) -> Prediction:
        return Prediction(torch.tensor([[[2.0] + [-9] * 4, [1.0] + [-9] * 4, [0.0] + [-9] * 4]]), boxes[None])

    checkpoint = load_checkpoint(str(folder_of(name)))
    description = describe(checkpoint, {"images": (1, 3, 64, 64)}, {"logits": (1, 20, 5), "boxes": (1, 20, 4)})
    assert description["boxes"]["clip"] is clipped
    detector = Detector(checkpoint, "cpu", engine=engine)
    found = detector.predict(Image.new("RGB", (200, 100)), threshold=0.4)
    expected = [[-20, 70, 60, 110], [140, -10, 220, 30], [80, 40, 120, 60]]
    if clipped:
        expected = [[0, 70, 60, 100], [140, 0, 200, 30], [80, 40, 120, 60]]
    np.testing.assert_allclose(found.boxes, expected, atol=1e-4)


class Judge:
    """Transformers' own pipeline."""

    def __init__(self, folder: Path) -> None:
        self.network: Any = AutoModelForInstanceSegmentation.from_pretrained(folder).eval()
        self.processor = AutoImageProcessor.from_pretrained(folder)

    @torch.no_grad()
    def __call__(self, image: Image.Image, threshold: float = 0.0) -> tuple[dict[str, Any], np.ndarray]:
        """Return boxes, scores and labels, and the masks (N, H, W) of the same detections."""
        output = self.network(self.processor(images=image, return_tensors="pt")["pixel_values"])
        options: dict[str, Any] = {"threshold": threshold, "target_sizes": [image.size[::-1]]}
        (boxes,) = self.processor.post_process_object_detection(output, **options)
        (masks,) = self.processor.post_process_instance_segmentation(output, **options, return_binary_maps=True)
        assert [info["score"] for info in masks["segments_info"]] == pytest.approx(boxes["scores"].tolist(), abs=1e-6)
        return {key: value.numpy() for key, value in boxes.items()}, masks["segmentation"].bool().numpy()


def test_masks_are_those_of_transformers() -> None:
    judge, detector = Judge(folder_of_masks()), Detector(load_checkpoint(str(folder_of_masks())), "cpu", engine="plain")
    shares = []
    for image in images():
        expected, masks = judge(image)
        found = detector.predict(image, threshold=0.0)
        np.testing.assert_allclose(found.scores, expected["scores"], atol=1e-6)
        np.testing.assert_allclose(found.boxes, expected["boxes"].clip(0, image.size * 2), atol=0.01)
        assert (found.category_ids == expected["labels"]).all()
        assert found.masks is not None
        assert np.array_equal(np.stack([found.masks[i] for i in range(len(found))]), masks)
        shares += masks.mean((1, 2)).tolist()
        middle = float(np.median(found.scores)) + 1e-4
        assert 0 < len(detector.predict(image, threshold=middle)) == len(judge(image, middle)[1]) < len(found)
    assert 0.05 < np.mean(shares) < 0.95
    assert len(set(shares)) > 10


def target(*labels: int, side: int = 64) -> Target:
    """Objects whose masks are discs in their boxes."""
    boxes = torch.rand(len(labels), 4, generator=torch.Generator().manual_seed(len(labels))) * 0.3 + 0.2
    at = (torch.arange(side) + 0.5) / side
    cx, cy, w, h = (value[:, None, None] for value in boxes.unbind(-1))
    masks = ((at - cx) / w) ** 2 + ((at[:, None] - cy) / h) ** 2 < 0.25
    return Target(torch.tensor(labels, dtype=torch.long), boxes, masks=masks)


def labels_of(targets: list[Target]) -> list[dict[str, Any]]:
    return [{"class_labels": target.labels, "boxes": target.boxes, "masks": target.masks} for target in targets]


def test_the_loss_is_that_of_transformers() -> None:
    checkpoint = load_checkpoint(str(folder_of_masks()))
    pixels = prepare(next(images()), checkpoint.preprocessing)
    batch, targets = collate([pixels, pixels.flip(2), pixels.flip(1)]), [target(0, 3, 3), target(), target(4, 1)]
    model = checkpoint.model().train()
    torch.manual_seed(5)
    output = model(batch, targets)
    breakdown = checkpoint.make_loss().compute_loss(output, targets)
    network = AutoModelForInstanceSegmentation.from_pretrained(folder_of_masks()).train()
    torch.manual_seed(5)
    theirs = network(batch.images, labels=labels_of(targets))
    assert set(breakdown.parts) >= {"ce", "bbox", "giou", "mask_ce", "mask_dice"}
    for key, value in breakdown.parts.items():
        torch.testing.assert_close(value, theirs.loss_dict[f"loss_{key}"])
    torch.testing.assert_close(breakdown.total, theirs.loss)
    breakdown.total.backward()
    unused = {name for name, p in model.named_parameters() if p.grad is None and p.requires_grad}
    assert not any("blocks" in name or "query_features" in name for name in unused)
    assert sorted(breakdown.matches["decoder"].targets[-5:].tolist()) == [0, 1, 2, 3, 4]


def test_a_batch_without_objects() -> None:
    """Transformers returns an empty tensor as the loss."""
    checkpoint = load_checkpoint(str(folder_of_masks()))
    pixels = prepare(next(images()), checkpoint.preprocessing)
    model, targets = checkpoint.model().train(), [target()]
    torch.manual_seed(5)
    breakdown = checkpoint.make_loss().compute_loss(model(collate([pixels]), targets), targets)
    network = AutoModelForInstanceSegmentation.from_pretrained(folder_of_masks()).train()
    torch.manual_seed(5)
    theirs = network(pixels[None], labels=labels_of(targets)).loss_dict
    expected = sum(value for name, value in theirs.items() if name.startswith("loss_ce"))
    torch.testing.assert_close(breakdown.total, expected)
    assert breakdown.total > 0
    assert breakdown.parts["mask_ce"] == breakdown.parts["bbox"] == 0
    breakdown.total.backward()


def test_the_matching_compares_masks_at_all_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers compares them at random points, here at the centers of the cells."""
    checkpoint = load_checkpoint(str(folder_of_masks()))
    matcher = checkpoint.make_loss().matcher
    assert isinstance(matcher, HungarianMatcher)
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 3, 20, 5, generator=generator)
    boxes = torch.rand(2, 3, 20, 4, generator=generator) * 0.4 + 0.1
    masks = [3 * torch.randn(3, 20, 16, 16, generator=generator) for _ in range(2)]
    targets = [target(0, 3, 3, 1), target(), target(4, 2)]
    match = matcher(QueryGroup("decoder", logits, boxes, mask_logits=masks), targets)
    at = (torch.arange(16) + 0.5) / 16
    centers = torch.cartesian_prod(at, at).flip(1)[None]
    monkeypatch.setattr(torch, "rand", lambda *_sizes, **_options: centers)
    theirs = loss_rf_detr.RfDetrHungarianMatcher(
        **{f"{name}_cost": weight for name, weight in zip(("class", "bbox", "giou"), (2, 5, 2), strict=True)},
        cost_mask_class_cost=5, cost_mask_dice_cost=5,
    )  # fmt: skip
    assert matcher.weights == {"class": 2, "l1": 5, "giou": 2, "mask": 5, "dice": 5}
    without = HungarianMatcher(matcher.terms[:3])(QueryGroup("decoder", logits, boxes), targets)
    assert match.queries.tolist() != without.queries.tolist()
    for layer in range(2):
        output = {"logits": logits[layer], "pred_boxes": boxes[layer], "pred_masks": masks[layer]}
        expected = theirs(output, labels_of(targets), 1)
        starts = [0, 4, 4]
        pairs = {
            (image, int(query), starts[image] + int(object_))
            for image, (queries, objects) in enumerate(expected)
            for query, object_ in zip(queries, objects, strict=True)
        }
        ours = match.layer(layer)
        assert set(zip(ours.images.tolist(), ours.queries.tolist(), ours.targets.tolist(), strict=True)) == pairs


@torch.no_grad()
def test_layers_and_proposals_have_masks() -> None:
    """Those of an earlier layer are those of a shallower model."""
    checkpoint = load_checkpoint(str(folder_of_masks()))
    model, pixels = checkpoint.model(), collate([prepare(next(images()), checkpoint.preprocessing)])
    output = model(pixels)
    (proposals,) = output.others
    assert output.decoder.mask_logits is not None
    assert proposals.mask_logits is not None
    assert [tuple(layer.shape) for layer in output.decoder.mask_logits] == [(1, 20, 16, 16)] * 2
    assert not torch.allclose(*output.decoder.mask_logits, atol=0.01)
    network: Any = model.network
    judge = AutoModelForInstanceSegmentation.from_pretrained(folder_of_masks()).eval()
    torch.testing.assert_close(proposals.mask_logits[0], judge(pixels.images).enc_outputs_mask_logits)
    network.blocks = network.blocks[:1]
    network.model.model.decoder.layers = network.model.model.decoder.layers[:1]
    network.config.decoder_layers = network.model.model.decoder.num_layers = 1
    (alone,) = model(pixels).decoder.mask_logits
    torch.testing.assert_close(alone, output.decoder.mask_logits[0], atol=1e-5, rtol=1e-5)


def test_evaluation_of_masks(tmp_path: Path, detr: Detr) -> None:
    """The metrics of boxes and masks are those of pycocotools."""
    make_shapes(tmp_path / "data", images=16, size=64, objects=3)
    judge = Judge(folder_of_masks())

    def predict(image: Image.Image) -> Any:
        boxes, masks = judge(image)
        size = np.array(image.size * 2)
        for number, (mask, score, label, box) in enumerate(
            zip(masks, boxes["scores"], boxes["labels"], boxes["boxes"].clip(0, size), strict=True)
        ):
            moved = np.roll(mask, (number % 3, number % 5), (0, 1))
            entries = []
            for own, shift in ((mask, 0), (moved, number % 4)):
                runs = rle.encode(np.asfortranarray(own, dtype=np.uint8))
                x0, y0, x1, y1 = (float(value) for value in box)
                entries.append(
                    {
                        "category_id": int(label) + 1,
                        "bbox": [x0 + shift, y0, x1 - x0, y1 - y0],
                        "segmentation": {**runs, "counts": runs["counts"].decode()},
                    }
                )
            yield {**entries[0], "score": float(score)}, {**entries[1], "area": int(moved.sum())}

    truth, results = truth_of_predictions(tmp_path / "data", predict, every=3)
    assert [(entry["id"] - 1, entry["name"]) for entry in truth["categories"]] == list(CLASSES.items())
    shown = detr("eval", tmp_path / "data", "--weights", folder_of_masks(), "--json", "--device", "cpu").ok()
    bare = [{key: value for key, value in result.items() if key != "bbox"} for result in results]
    # Where boxes and masks are given, pycocotools takes areas of detections from the boxes, as for boxes alone.
    boxes, masks = twelve(truth, results), twelve(truth, bare, kind="segm")
    assert boxes["AR100"] > 0.05
    assert shown.json["metrics"] == pytest.approx(boxes, abs=5e-3)
    assert shown.json["masks"] == pytest.approx(masks, abs=5e-3)


QUICK = ("--epochs", 1, "--batch-size", 4, "--set", "workers=0")


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_it_resumes_to_the_same_bits(data: Path, tmp_path: Path) -> None:
    facts: dict[str, Any] = {"weights": str(folder_of_masks()), "model": None, "queries": None, "size": None}
    assert_resumes_to_the_same_bits(data, tmp_path, step=4, **facts)


def test_transformers_reads_the_checkpoint_of_a_training(data: Path, detr: Detr) -> None:
    """On other classes. Masks are evaluated."""
    shown = detr("train", data, "--weights", folder_of_masks(), "--out", "run", *QUICK, "--json").ok()
    assert "mask_AP" in Path("run/metrics.csv").read_text(), shown.out
    last = Path("run/last")
    judge, checkpoint = Judge(last), load_checkpoint(str(last))
    assert type(judge.network).__name__ == "RfDetrForInstanceSegmentation"
    assert list(judge.network.config.id2label.values()) == list(CLASSES.values())
    image = next(images())
    expected, masks = judge(image)
    found = Detector(checkpoint, "cpu", engine="plain").predict(image, threshold=0.0)
    np.testing.assert_allclose(found.scores, expected["scores"], atol=1e-6)
    assert found.masks is not None
    assert len(found) == len(masks)
    assert all((found.masks[i] == mask).all() for i, mask in enumerate(masks))


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    """Also with batches without objects."""
    make_shapes(tmp_path / "data", images=8, size=64, objects=2)
    change_annotations(tmp_path / "data", without_first_objects, "train")
    done = torchrun(
        "train", tmp_path / "data", "--weights", folder_of_masks(), *QUICK, "--epochs", 2, "--batch-size", 1,
        "--out", tmp_path / "run", "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    AutoModelForInstanceSegmentation.from_pretrained(tmp_path / "run" / "last")


@pytest.mark.slow
def test_inspection(data: Path, image: Path, detr: Detr) -> None:
    folder = folder_of_masks()
    look = ("visualize-attn", image, "--weights", folder, "--query", 3)
    for command in (
        (*look, "--layer", "all", "--out", "cross.png"),
        (*look, "--self", "--out", "self.png"),
        ("match-debug", data, "--all", "--weights", folder),
        ("report", data, "--weights", folder, "--out", "report"),
    ):
        detr(*command).ok()
    shown = detr(*look, "--mask-head", "--json", "--raw", "raw.npz", "--out", "mask.png").ok()
    raw = np.load("raw.npz")
    np.testing.assert_allclose(raw["mask_attention"].sum((-1, -2)), 1, atol=1e-4)
    with Image.open(image) as opened:
        found = Detector(load_checkpoint(str(folder)), "cpu", engine="plain").predict(opened, threshold=0.0)
    assert found.masks is not None
    assert np.array_equal(raw["masks"][0], found.masks[int(np.flatnonzero(found.queries == 3)[0])])
    assert shown.json["queries"][0]["mask"]
    matched = detr("match-debug", data, "--weights", folder, "--json", "--out", "matched.png").ok().json
    assert [*matched["groups"][0]["layers"][0]["cost"]] == ["class", "l1", "giou", "mask", "dice", "total"]
    assert "20 object queries" in " ".join(detr("explain", image, "--weights", folder).ok().out.split())
