"""The small models in all commands, with deformable attention and with masks, and their recipe."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from here import Detr
from trainings import assert_resumes_to_the_same_bits, change_annotations, rows_of, shapes_folder

from detrcli.architectures import preset
from detrcli.architectures.architecture import DataFacts
from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.make import make_shapes
from detrcli.inference.engines import FastEngine, PlainEngine
from detrcli.structures import Batch, Target

SLOW = pytest.mark.slow
BOTH = pytest.mark.parametrize("model", ["dino-tiny", pytest.param("deformable-tiny", marks=SLOW)])
QUICK = ("--weights", "none", "--out", "run", "--epochs", 1, "--batch-size", 4, "--set", "workers=0")
SMALL = (*QUICK, "--size", 48, "--set", "queries=8")
CPU = torch.device("cpu")
data = shapes_folder(images=20, size=64, objects=3)


@BOTH
def test_all_commands(model: str, detr: Detr, data: Path) -> None:
    trained = detr("train", data, "--model", model, *QUICK).ok()
    assert "20 images of 64 x 64, at most 3 objects in each" in trained.err
    assert ", queries 30, lr" in trained.err
    image = data / "val" / "000000.png"
    shown = detr("predict", image, "--weights", "run", "--threshold", 0, "--json", "--no-images")
    assert len(shown.json["images"][0]["detections"]) == 100  # the best pairs of 30 queries with 5 classes
    assert detr("eval", data, "--weights", "run", "--json").code == 0

    shown = detr("visualize-attn", image, "--weights", "run", "--raw", "maps.npz", "--query", 3).ok()
    maps = np.load("maps.npz")
    assert maps["points"].shape[1:] == (1, 4, 1, 4, 2)  # queries, heads, levels, points
    np.testing.assert_allclose(maps["weights"].sum((-1, -2)), 1, atol=1e-5)
    shown = detr("visualize-attn", image, "--weights", "run", "--encoder", "20,20")
    assert shown.code == (2 if model == "dino-tiny" else 0)  # it has no encoder layers
    assert ("no encoder attention" in shown.err) == (model == "dino-tiny")

    shown = detr("match-debug", data, "--weights", "run").ok()
    assert "proposals" in shown.out
    assert ("denoising" in shown.out) == (model == "dino-tiny")
    shown = detr("explain", image, "--weights", "run").ok()
    assert "levels" in shown.out
    assert shown.out.count("proposals ") == 1


@pytest.mark.parametrize("model", ["dino-tiny", "deformable-tiny", "dino-tiny-masks"])
@pytest.mark.usefixtures("one_thread")
@pytest.mark.slow
def test_it_resumes_to_the_same_bits(model: str, data: Path, tmp_path: Path) -> None:
    """Random numbers of denoising, mosaics and points in masks follow from the step."""
    assert_resumes_to_the_same_bits(data, tmp_path, model=model, augmentation="strong")


def test_the_recipe_depends_on_the_data() -> None:
    architecture, config = preset("dino-tiny")

    def recipe(*facts: int) -> list[Any]:
        settings = architecture.recipe(config, DataFacts(*facts))
        return [settings[name] for name in ("size", "queries", "batch_size", "epochs", "warmup")]

    assert recipe(60, 128, 160, 5) == [128, 30, 15, 150, 150 * (60 // 15) // 20]
    assert recipe(600, 512, 512, 40) == [256, 80, 16, 18, 18 * (600 // 16) // 20]
    # Images of small objects are enlarged.
    assert [recipe(80, 128, 128, 5, small)[0] for small in (30, 16, 14, 12, 2)] == [128, 128, 144, 160, 160]
    assert [recipe(80, 512, 512, 5, small)[0] for small in (40, 32, 24)] == [256, 256, 320]
    assert recipe(80, 32, 32, 5, 1)[0] == 64


@pytest.mark.parametrize(
    "name",
    [pytest.param("detr-tiny-masks", marks=SLOW), "dino-tiny-masks", pytest.param("deformable-tiny-masks", marks=SLOW)],
)
def test_training_and_evaluation_with_masks(name: str, detr: Detr, data: Path) -> None:
    shown = detr("train", data, "--model", name, *SMALL).ok()
    (row,) = rows_of(Path("run"))
    assert float(row["loss_mask"]) > 0
    assert float(row["loss_dice"]) > 0
    evaluated = detr("eval", data, "--weights", "run", "--json")
    assert evaluated.json["masks"].keys() == evaluated.json["metrics"].keys()
    measured = {name: float(row[f"mask_{name}"]) for name in evaluated.json["masks"]}
    assert measured == pytest.approx(evaluated.json["masks"], abs=1e-9)
    shown = detr("predict", data / "val" / "000000.png", "--weights", "run", "--threshold", 0, "--json", "--no-images")
    assert all(detection["mask"]["size"] == [64, 64] for detection in shown.json["images"][0]["detections"])


@pytest.mark.parametrize("name", ["detr-tiny-masks", "dino-tiny-masks", "deformable-tiny-masks"])
@torch.no_grad()
def test_the_fast_engine_computes_the_same_masks(name: str) -> None:
    torch.manual_seed(0)
    architecture, config = preset(name)
    model = architecture.build(config).eval()
    batch = Batch(torch.randn(2, 3, 64, 80), None)
    plain, fast = PlainEngine(model, CPU)(batch), FastEngine(model, CPU)(batch)
    alone = PlainEngine(model, CPU)(Batch(batch.images[1:], None))
    queries = torch.tensor([1, 0, 1]), torch.tensor([3, 4, 5])
    masks = plain.masks(*queries)
    assert masks.shape == (3, 64, 80)
    torch.testing.assert_close(fast.masks(*queries), masks, rtol=1e-3, atol=1e-4)
    single = alone.masks(torch.tensor([0]), torch.tensor([5]))[0]
    torch.testing.assert_close(single, masks[2], rtol=1e-3, atol=1e-4)


def test_a_mask_head_on_a_frozen_detector(detr: Detr, data: Path) -> None:
    """The detector's tensors and statistics are bitwise equal afterwards."""
    frozen = ("--set", "freeze=detector", "--set", "ema=0")
    shown = detr("train", data, "--model", "dino-tiny-masks", *QUICK, *frozen, "--weights", "shapes").ok()
    assert "shapes has no mask head" in shown.err
    before, after = load_checkpoint("shapes").tensors, load_checkpoint("run").tensors
    assert all(torch.equal(after[f"detector.{name}"], tensor) for name, tensor in before.items())
    for model, options, reason in (
        ("dino-tiny", frozen, "mask head"),
        ("dino-tiny-masks", (*frozen, "--set", "compile=true", "--weights", "shapes"), "mask head"),
        ("detr-tiny-masks", ("--weights", "shapes"), "detr-tiny-masks: it is a dino-tiny"),
    ):
        shown = detr("train", data, "--model", model, *QUICK, "--out", "more", *options)
        assert shown.code == 2
        assert reason in shown.err


@pytest.mark.slow
def test_data_without_masks_is_reported_before_anything_is_written(detr: Detr, tmp_path: Path) -> None:
    make_shapes(tmp_path / "boxes", images=8, size=48)
    change_annotations(
        tmp_path / "boxes", lambda document: [entry.pop("segmentation") for entry in document["annotations"]]
    )
    detr("train", "boxes", "--model", "dino-tiny-masks", *SMALL).fails(3, "mask")
    assert not Path("run").exists()
    assert detr("train", "boxes", "--model", "dino-tiny", *SMALL).code == 0


@pytest.mark.slow
def test_commands_that_show_the_detector(detr: Detr, data: Path) -> None:
    assert detr("train", data, "--model", "detr-tiny-masks", *SMALL).code == 0
    image = data / "val" / "000000.png"
    for command in (
        ("visualize-attn", image, "--weights", "run", "--query", 3, "--out", "attention.png"),
        ("match-debug", data, "--weights", "run", "--image", 1, "--json", "--out", "matching.png"),
        ("explain", image, "--weights", "run"),
        ("report", data, "--weights", "run", "--out", "report"),
        ("doctor", "run"),
    ):
        detr(*command).ok()


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
