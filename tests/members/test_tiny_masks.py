"""The small models with masks in all commands, and both ways of training them."""

import csv
import json
from pathlib import Path

import pytest
import torch
from here import Detr
from trainings import assert_resumes_to_the_same_bits

from detrcli.architectures import preset
from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.make import make_shapes
from detrcli.inference.engines import FastEngine, PlainEngine
from detrcli.structures import Batch, Target

NAMES = ("detr-tiny-masks", "dino-tiny-masks", "deformable-tiny-masks")
DEFAULT = "dino-tiny-masks"  # the others are trained in the slow run
QUICK = ("--epochs", 1, "--batch-size", 4, "--size", 48, "--set", "workers=0", "--set", "queries=8")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, images=8, size=48, objects=3)
    return folder


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == DEFAULT else pytest.mark.slow) for name in NAMES]
)
def test_training_and_evaluation(name: str, detr: Detr, data: Path) -> None:
    shown = detr("train", data, "--model", name, "--weights", "none", "--out", "run", *QUICK)
    assert shown.code == 0, shown.err
    with Path("run/metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["loss_mask"]) > 0
    assert float(row["loss_dice"]) > 0
    evaluated = detr("eval", data, "--weights", "run", "--json")
    assert evaluated.json["masks"].keys() == evaluated.json["metrics"].keys()
    measured = {name: float(row[f"mask_{name}"]) for name in evaluated.json["masks"]}
    assert measured == pytest.approx(evaluated.json["masks"], abs=1e-9)
    shown = detr("predict", data / "val" / "000000.png", "--weights", "run", "--threshold", 0, "--json", "--no-images")
    assert all(detection["mask"]["size"] == [48, 48] for detection in shown.json["images"][0]["detections"])


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_fast_engine_computes_the_same_masks(name: str) -> None:
    torch.manual_seed(0)
    architecture, config = preset(name)
    model = architecture.build(config).eval()
    batch = Batch(torch.randn(2, 3, 64, 80), None)
    plain, fast = PlainEngine(model, CPU)(batch), FastEngine(model, CPU)(batch)
    queries = torch.tensor([1, 0, 1]), torch.tensor([3, 4, 5])
    assert plain.masks is not None
    assert fast.masks is not None
    masks = plain.masks(*queries)
    assert masks.shape == (3, 64, 80)
    torch.testing.assert_close(fast.masks(*queries), masks, rtol=1e-3, atol=1e-4)
    alone = PlainEngine(model, CPU)(Batch(batch.images[1:], None)).masks
    assert alone is not None
    torch.testing.assert_close(alone(torch.tensor([0]), torch.tensor([5]))[0], masks[2], rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.slow
def test_it_resumes_to_the_same_bits(data: Path, tmp_path: Path) -> None:
    """The points at which masks are compared are drawn anew in each step, and are the same after resuming."""
    assert_resumes_to_the_same_bits(data, tmp_path, model="dino-tiny-masks")


def test_a_mask_head_on_a_frozen_detector(detr: Detr, data: Path) -> None:
    """The detector's tensors and statistics are bitwise equal afterwards."""
    options = ("--model", "dino-tiny-masks", "--weights", "shapes", "--set", "freeze=detector", "--set", "ema=0")
    shown = detr("train", data, *options, "--out", "run", *QUICK[:4], "--set", "workers=0")
    assert shown.code == 0, shown.err
    assert "shapes has no mask head" in shown.err
    before, after = load_checkpoint("shapes").tensors, load_checkpoint("run").tensors
    assert all(torch.equal(after[f"detector.{name}"], tensor) for name, tensor in before.items())
    for arguments, reason in (
        (("--model", "dino-tiny", "--weights", "none", "--set", "freeze=detector", *QUICK), "mask head"),
        ((*options, "--set", "compile=true", *QUICK[:4]), "mask head"),
        (("--model", "detr-tiny-masks", "--weights", "shapes", *QUICK), "detr-tiny-masks: it is a dino-tiny"),
    ):
        shown = detr("train", data, *arguments)
        assert shown.code == 2
        assert reason in shown.err


@pytest.mark.slow
def test_data_without_masks_is_reported_before_anything_is_written(detr: Detr, data: Path, tmp_path: Path) -> None:
    make_shapes(tmp_path / "boxes", images=8, size=48)
    for path in (tmp_path / "boxes" / "annotations").iterdir():
        document = json.loads(path.read_text())
        for entry in document["annotations"]:
            del entry["segmentation"]
        path.write_text(json.dumps(document))
    shown = detr("train", "boxes", "--model", "dino-tiny-masks", "--weights", "none", "--out", "run", *QUICK)
    assert shown.code == 3
    assert "mask" in shown.err
    assert not Path("run").exists()
    assert detr("train", "boxes", "--model", "dino-tiny", "--weights", "none", "--out", "run", *QUICK).code == 0


@pytest.mark.slow
def test_commands_that_show_the_detector(detr: Detr, data: Path) -> None:
    assert detr("train", data, "--model", "detr-tiny-masks", "--weights", "none", "--out", "run", *QUICK).code == 0
    image = data / "val" / "000000.png"
    for command in (
        ("visualize-attn", image, "--weights", "run", "--query", 3, "--out", "attention.png"),
        ("match-debug", data, "--weights", "run", "--image", 1, "--json", "--out", "matching.png"),
        ("explain", image, "--weights", "run"),
        ("report", data, "--weights", "run", "--out", "report"),
        ("doctor", "run"),
    ):
        shown = detr(*command)
        assert shown.code == 0, (command, shown.err)


def test_a_batch_without_objects() -> None:
    """It has a loss, and gradients for all of the mask head."""
    architecture, config = preset("dino-tiny-masks")
    model = architecture.build(config)
    nothing = Target(
        torch.zeros(0, dtype=torch.long), torch.zeros(0, 4), masks=torch.zeros(0, 64, 64, dtype=torch.bool)
    )
    output = model(Batch(torch.randn(1, 3, 64, 64), None), [nothing])
    loss = architecture.make_loss(config, architecture.loss).compute_loss(output, [nothing])
    loss.total.backward()
    assert loss.parts["mask"] == loss.parts["dice"] == 0
    grads = [p.grad for p in model.mask_head.parameters()]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)
