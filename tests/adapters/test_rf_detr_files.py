"""Checkpoints of the package `rfdetr`, of all its versions, compared with the package and with transformers."""

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from here import Detr, all_detections
from originals import (
    NAMES,
    RF_DETR,
    check_equal,
    missing,
    original_names,
    photo,
    randomize,
    rf_detr,
    rf_detr_files,
    saved,
)
from PIL import Image

from detrcli.architectures.adapters.originals.rf_detr import class_names
from detrcli.checkpoints import coco
from detrcli.checkpoints.load import load_checkpoint
from detrcli.resize import ExactSize

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the package rfdetr


@pytest.fixture(scope="module")
def package() -> Any:
    """The package `rfdetr`, where it is installed."""
    package = pytest.importorskip("rfdetr")
    from rfdetr.models.backbone import dinov2

    backbone: Any = dinov2.WindowedDinov2WithRegistersBackbone
    with pytest.MonkeyPatch.context() as patch:  # no download
        patch.setattr(backbone, "from_pretrained", classmethod(lambda cls, name, config: cls(config)))
        yield package


def package_model(package: Any, name: str, **settings: Any) -> Any:
    """Return a model of the package with random weights, large enough that scores differ clearly."""
    model = getattr(package, name)(pretrain_weights=None, device="cpu", **settings)
    positions = randomize(model.model.model).get_parameter("backbone.0.encoder.encoder.embeddings.position_embeddings")
    with torch.no_grad():
        positions.div_(positions.std())  # or all tokens would be nearly equal
    return model


FILES = ("published", "1.0", "1.1 total", "1.2 bundle", "1.6", "1.7", "1.8", "1.11 ckpt")
SMALL = {"num_classes": 3, "num_queries": 50}
PUBLISHED = (
    ("RFDETRNano", "published"), ("RFDETRSmall", "1.0"), ("RFDETRMedium", "1.1 total"), ("RFDETRBase", "1.2 bundle"),
    ("RFDETRLarge", "1.6"), ("RFDETRSegPreview", "1.0"), ("RFDETRSegNano", "published"), ("RFDETRSegSmall", "1.6"),
    ("RFDETRSegMedium", "1.1 total"), ("RFDETRSegLarge", "1.7"), ("RFDETRSegXLarge", "1.8"),
    ("RFDETRSeg2XLarge", "published"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "settings", "version"),
    [
        ("RFDETRNano", {**SMALL, "resolution": 320}, "1.8"),
        ("RFDETRSegNano", {**SMALL, "resolution": 240}, "1.7"),
        pytest.param("RFDETRBase", {**SMALL, "resolution": 448}, "1.11 ckpt", marks=pytest.mark.slow),
        *(pytest.param(name, {}, version, marks=pytest.mark.slow) for name, version in PUBLISHED),
    ],
)
def test_rf_detr_detects_as_its_package(
    package: Any, name: str, settings: dict[str, Any], version: str, tmp_path: Path, detr: Detr
) -> None:
    """In `detr predict`, and in transformers after `detr convert`."""
    model = package_model(package, name, **settings)
    config = model.model_config.model_dump()
    config |= {"num_classes": len(NAMES)} if settings else {}
    content = rf_detr_files(model.model.model.state_dict(), config, name)[version]
    file = saved(tmp_path / "checkpoint.pth", content)
    # Where two of the best tokens have nearly equal scores, they change places by rounding, and with them detections.
    for number in range(4):
        image = photo(tmp_path / "photo.png", number)
        predicted = model.predict(str(image), threshold=0.0)
        theirs = predicted.xyxy, predicted.confidence, predicted.class_id, predicted.mask
        if len(missing(all_detections(detr, image, file), theirs)) <= len(predicted) // 100:
            break
    else:
        pytest.fail("all images differ")
    if not settings:  # the time; the folder contains the same network
        return
    detr("convert", file, "folder").ok()
    task = "InstanceSegmentation" if predicted.mask is not None else "ObjectDetection"
    network = getattr(transformers, f"AutoModelFor{task}").from_pretrained(tmp_path / "folder").eval()
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "folder")
    with Image.open(image) as opened, torch.no_grad():
        output = network(processor(images=opened, return_tensors="pt")["pixel_values"])
        options = {"threshold": 0.0, "top_k": len(predicted), "target_sizes": [opened.size[::-1]]}
        limits = opened.size * 2
    (found,) = processor.post_process_object_detection(output, **options)
    columns = found["boxes"].numpy().clip(0, limits), found["scores"], found["labels"]
    converted = [
        {"box": box.tolist(), "score": float(score), "category_id": int(label)}
        for box, score, label in zip(*columns, strict=True)
    ]
    assert len(missing(converted, (*theirs[:3], None))) <= len(predicted) // 100


def narrow_rf_detr(*, masks: bool, **facts: Any) -> Any:
    config = transformers.AutoConfig.for_model("rf_detr", **rf_detr(masks=masks, **facts))
    task = "InstanceSegmentation" if masks else "ObjectDetection"
    return randomize(getattr(transformers, f"AutoModelFor{task}").from_config(config))


@pytest.mark.slow
@pytest.mark.parametrize("masks", [False, True])
def test_training_from_a_file_of_rf_detr(masks: bool, data: Path, tmp_path: Path, detr: Detr) -> None:
    """It keeps classes by name, resumes, and is reported."""
    tensors = original_names(narrow_rf_detr(masks=masks, side=4, queries=10), RF_DETR)
    content = {"model": tensors, "args": {"class_names": ["square", "circle", "moon"]}}
    file = saved(tmp_path / "checkpoint_best_total.pth", content)
    command = ("train", data, "--weights", file, "--out", "run", "--epochs", 1, "--set", "workers=0")
    assert "kept by name: 2 (circle, square)" in detr(*command, "--batch-size", 6).ok().err
    assert ("mask_AP" in Path("run/metrics.csv").read_text()) == masks
    detr("train", "--resume", "run", "--epochs", 2).ok()
    detr("report", "run", "--out", "report").ok()


@pytest.mark.parametrize(
    ("version", "masks"),
    [
        pytest.param(version, masks, marks=pytest.mark.slow if masks == bool(number % 2) else ())
        for number, version in enumerate(FILES)
        for masks in (False, True)
    ],
)
def test_files_of_rf_detr(version: str, masks: bool, tmp_path: Path) -> None:
    """Of all versions of the package, with names as written by a helper in the other direction."""
    network = narrow_rf_detr(masks=masks)
    architecture = {
        "resolution": 192, "num_select": 40, "num_queries": 20, "dec_n_points": 2, "sa_nheads": 8, "num_windows": 2,
        "out_feature_indexes": [3, 6, 9, 12], "mask_downsample_ratio": 4,
    }  # fmt: skip
    files = rf_detr_files(original_names(network, RF_DETR), architecture, "RFDETRSegSmall" if masks else "RFDETRNano")
    checkpoint = load_checkpoint(saved(tmp_path / "checkpoint.pth", files[version]))
    check_equal(checkpoint, network, 192)
    told = version not in ("published", "1.6", "1.7")  # whether the file has the architecture
    side = 192 if told else 120 if masks else 160
    assert checkpoint.preprocessing.resize == ExactSize(side, side)
    by_name = {"published": 20, "1.6": 20, "1.7": 100}.get(version) if masks else 300
    assert checkpoint.scoring.num_pairs(20) == (40 if told else by_name)
    named = {
        "published": ["class 0", "class 1", "class 2", "class 3"], "1.0": ["class 0", "class 1", "class 2", "class 3"],
        "1.1 total": ["no object", *NAMES], "1.2 bundle": ["no object", *NAMES],
    }.get(version, [*NAMES, "no object"])  # fmt: skip
    assert checkpoint.classes.names.tolist() == named
    assert (checkpoint.segmentation is not None) == masks


@pytest.mark.parametrize(
    ("facts", "more", "queries"),
    [
        ({"side": 42, "queries": 300}, {}, 200),
        ({"side": 42, "queries": 300}, {"model_config": {"num_queries": 300}}, 300),
        ({"side": 8, "queries": 30}, {"model_config": {"num_queries": 12}}, 12),
        ({"side": 8, "queries": 30}, {}, 30),
    ],
)
def test_files_with_more_queries_than_the_model(
    facts: dict[str, int], more: dict[str, Any], queries: int, tmp_path: Path
) -> None:
    """The first of each group are used. The published file of seg large has 300, and its model 200."""
    network = narrow_rf_detr(masks=True, group_detr=3, layers=1, **facts)
    content = {"model": original_names(network, RF_DETR), **more}
    checkpoint = load_checkpoint(saved(tmp_path / "checkpoint.pth", content))
    assert checkpoint.config.queries == queries
    for name in ("query_feat.weight", "reference_point_embed.weight"):
        stored = network.state_dict()[f"model.model.{name}"].view(3, facts["queries"], -1)
        kept = checkpoint.tensors[f"network.model.model.{name}"]
        assert torch.equal(kept, stored[:, :queries].flatten(0, 1))


@pytest.mark.parametrize(
    ("args", "rows", "names"),
    [
        ({"class_names": ["cat", "dog"]}, 3, {0: "cat", 1: "dog", 2: "no object"}),
        (
            argparse.Namespace(class_names=["cat", "dog"], dataset_file="roboflow"), 3,
            {0: "no object", 1: "cat", 2: "dog"},
        ),
        (SimpleNamespace(class_names={1: "cat", 2: "dog"}, dataset_file="coco"), 3, {1: "cat", 2: "dog"}),
        (argparse.Namespace(class_names=["a", "b"], dataset_file="yolo"), 2, {0: "a", 1: "b"}),
        ({"class_names": coco.NAMED}, 91, {}),  # COCO's, by category id
        (None, 3, {}),
    ],
)  # fmt: skip
def test_class_names_of_rf_detr(args: object, rows: int, names: dict[int, str]) -> None:
    assert class_names(args, rows) == names
