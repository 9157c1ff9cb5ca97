"""The commands on folders of transformers, as users call them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import folder_of, processor_of
from here import Detr
from judge import twelve
from PIL import Image
from transformers import AutoModelForObjectDetection

from detrcli.architectures.adapters.library import NEEDED
from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.make import make_shapes
from detrcli.data.preprocessing import prepare
from detrcli.errors import UsageError, WeightsError
from detrcli.inference.detector import Detector
from detrcli.inspection.relevance import relevance

CPU = torch.device("cpu")


@pytest.mark.slow
def test_all_that_looks_inside(name: str, folder: Path, data: Path, detr: Detr) -> None:
    picture = data / "val" / "000000.png"
    looked = ("visualize-attn", picture, "--weights", folder)
    shown = detr(*looked, "--query", 3, "--layer", "all", "--raw", "raw.npz", "--out", "cross.png", "--json")
    assert shown.code == 0, shown.err
    raw = np.load("raw.npz")
    np.testing.assert_allclose(raw["cross"].sum((-1, -2)), 1, atol=1e-3)
    family = load_checkpoint(str(folder)).config.family
    if family.attentions.kind == "sampled":
        np.testing.assert_allclose(raw["weights"].sum((3, 4)), 1, atol=1e-5)  # of each head
    assert detr(*looked, "--self", "--query", 3, "--out", "self.png").code == 0
    encoder = detr(*looked, "--encoder", "30,30", "--layer", "all", "--out", "encoder.png")
    assert encoder.code == (0 if family.attentions.encoder else 2), encoder.err
    dense = family.attentions.kind == "dense" and family.title != "YOLOS"
    relevant = detr(*looked, "--relevance", "--query", 3, "--out", "relevance.png")
    assert relevant.code == (0 if dense else 2), relevant.err
    assert dense or "This model has no relevance to show" in relevant.err
    matched = detr("match-debug", data, "--weights", folder, "--json", "--out", "matched.png")
    assert matched.code == 0, matched.err
    assert detr("match-debug", data, "--all", "--weights", folder, "--overwrite").code == 0
    explained = detr("explain", picture, "--weights", folder)
    assert explained.code == 0, explained.err
    assert "20 object queries" in " ".join(explained.out.split())


def test_relevance_follows_the_gradient(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Attention to a cell counts as much as the score changes with it: held against the difference that it makes."""
    checkpoint = load_checkpoint(str(folder_of("conditional", tmp_path_factory)))
    detector = Detector(checkpoint, CPU, engine="plain")
    pixels = prepare(Image.new("RGB", (96, 96), (200, 40, 90)), checkpoint.preprocessing)
    (map_,) = relevance(detector, pixels, [3])
    assert map_.shape == (3, 3)
    assert map_.sum().item() == pytest.approx(1, abs=1e-5)
    assert (map_ >= 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rt", "deformable-two-stage", "lw", "conditional"])
def test_two_processes(kind: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    """Also where a batch has no object, and where the model has parts that no loss reaches."""
    make_shapes(tmp_path / "data", images=8, size=64, objects=2)
    path = tmp_path / "data" / "annotations" / "instances_train.json"
    document = json.loads(path.read_text())
    document["annotations"] = [one for one in document["annotations"] if one["image_id"] > 3]
    path.write_text(json.dumps(document))
    folder = folder_of(kind, tmp_path_factory)
    command: list[Any] = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "detrcli",
        "train", tmp_path / "data", "--weights", folder, "--epochs", 2, "--batch-size", 1,
        "--set", "workers=0", "--out", tmp_path / "run", "--device", "cpu",
    ]  # fmt: skip
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=400, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    AutoModelForObjectDetection.from_pretrained(tmp_path / "run" / "last")


def changed(source: Path, place: Path, **facts: Any) -> str:
    shutil.copytree(source, place)
    path = place / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))
    return str(place)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"model_type": "oneformer"}, "of type 'oneformer'; read are detr, deformable_detr, .*yolos"),
        ({"architectures": ["ConditionalDetrForSegmentation"]}, "has masks"),
        ({"quantization_config": {"bits": 8}}, "quantised"),
        ({"d_model": 48}, "the tensors do not fit|does not load"),
        ({"d_model": "wide"}, "does not load|cannot be understood"),
    ],
)
def test_what_is_not_read_is_said(
    facts: dict[str, Any], said: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = folder_of("conditional", tmp_path_factory)
    with pytest.raises(WeightsError, match=said):
        load_checkpoint(changed(source, tmp_path / "changed", **facts))


def test_code_in_a_folder_is_not_run(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    source = folder_of("conditional", tmp_path_factory)
    own = {"AutoConfig": "evil.Config", "AutoModelForObjectDetection": "evil.Model"}
    place = changed(source, tmp_path / "evil", auto_map=own)
    (tmp_path / "evil" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    load_checkpoint(place)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"do_resize": False}, "not resized"),
        ({"rescale_factor": 1.0}, "rescales by"),
        ({"resample": 1}, "filter 1"),
        ({"pad_size": {"height": 200, "width": 200}}, "pads or cuts"),
    ],
)
def test_processors_that_are_not_read(
    facts: dict[str, Any], said: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shutil.copytree(folder_of("conditional", tmp_path_factory), tmp_path / "other")
    path = tmp_path / "other" / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))
    with pytest.raises(WeightsError, match=said):
        load_checkpoint(str(tmp_path / "other"))


def test_without_a_processor_the_familys_own(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    for kind, rule in (("rt", "exact-size"), ("conditional", "bounded-edges")):
        shutil.copytree(folder_of(kind, tmp_path_factory), tmp_path / kind)
        (tmp_path / kind / "preprocessor_config.json").unlink()
        assert load_checkpoint(str(tmp_path / kind)).preprocessing.resize.kind == rule
    assert processor_of("rt").size["height"] == 96


def test_where_transformers_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = folder_of("conditional", tmp_path_factory)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises((UsageError, WeightsError), match=r"detrcli\[transformers\]"):
        load_checkpoint(str(folder))
    assert "detrcli[transformers]" in NEEDED


@pytest.mark.slow
def test_another_number_of_queries(detr: Detr, data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    more = ("--epochs", 1, "--batch-size", 4, "--set", "workers=0", "--set", "queries=25")
    for kind in ("rt", "conditional"):
        shown = detr("train", data, "--weights", folder_of(kind, tmp_path_factory), "--out", kind, *more)
        assert shown.code == 0, shown.err
        assert load_checkpoint(kind).config.queries == 25
    shown = detr("train", data, "--weights", folder_of("yolos", tmp_path_factory), "--out", "yolos", *more)
    assert shown.code == 2
    assert "YOLOS: its number of queries cannot be changed" in shown.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "to"),
    [
        ("rt", "onnx"),
        ("rt", "openvino"),
        ("rt-v2", "onnx"),
        ("d-fine", "openvino"),
        ("deformable", "onnx"),
        ("deformable", "openvino"),
    ],
)
def test_exports_say_the_same(
    kind: str, to: str, data: Path, detr: Detr, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Of a model whose proposals are well apart, so that the last one chosen is the same everywhere."""
    source = folder_of(kind, tmp_path_factory)
    network = AutoModelForObjectDetection.from_pretrained(source)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() == 4:
                parameter.mul_(3)
            if "enc_score_head.weight" in name:
                parameter.mul_(50)
    network.save_pretrained(tmp_path / "lively")
    processor = type(processor_of(kind))(size={"height": 96, "width": 96})
    processor.save_pretrained(tmp_path / "lively")
    out = f"model.{'onnx' if to == 'onnx' else 'xml'}"
    shown = detr("export", tmp_path / "lively", "--format", to, "--out", out)
    assert shown.code == 0, shown.err
    pictures = sorted((data / "val").iterdir())[:2]
    told = [
        detr("predict", *pictures, "--weights", weights, "--threshold", 0, "--json", "--no-images", "--batch-size", 2)
        for weights in (tmp_path / "lively", out)
    ]
    plain, exported = (json.loads(one.out)["images"] for one in told)
    for a, b in zip(plain, exported, strict=True):
        scores = [sorted(one["score"] for one in image["detections"]) for image in (a, b)]
        np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)


def test_of_many_sizes_there_is_no_export(detr: Detr, tmp_path_factory: pytest.TempPathFactory) -> None:
    shown = detr("export", folder_of("conditional", tmp_path_factory), "--format", "onnx", "--out", "x.onnx")
    assert shown.code == 2
    assert "fixed height and width" in shown.err


def test_half_the_precision(name: str, folder: Path, data: Path, detr: Detr) -> None:
    """Theirs mix numbers of both kinds, which torch has to sort out."""
    pictures = sorted((data / "val").iterdir())[:1]
    call = ("predict", *pictures, "--weights", folder, "--threshold", 0, "--no-images", "--json", "--device", "cpu")
    shown = detr(*call, "--precision", "bf16")
    assert shown.code == 0, shown.err
    (halved,), (whole,) = (json.loads(one.out)["images"] for one in (shown, detr(*call)))
    best = [max(one["score"] for one in image["detections"]) for image in (halved, whole)]
    assert best[0] == pytest.approx(best[1], abs=0.05)


def test_it_is_evaluated_as_pycocotools_would(folder: Path, tmp_path: Path, name: str, detr: Detr) -> None:
    """Their pipeline, picture by picture, and pycocotools in the plainest way.

    What a random network says becomes the ground truth in part, a little moved: so there is something to find.
    """
    make_shapes(tmp_path / "data", images=30, size=96, objects=3)
    path = tmp_path / "data" / "annotations" / "instances_val.json"
    truth = json.loads(path.read_text())
    network, processor = AutoModelForObjectDetection.from_pretrained(folder).eval(), processor_of(name)
    ids = {one["name"]: one["id"] for one in truth["categories"]}
    found: list[dict[str, Any]] = []
    truth["annotations"] = []
    for image in truth["images"]:
        picture = Image.open(tmp_path / "data" / "val" / image["file_name"]).convert("RGB")
        with torch.no_grad():
            output = network(processor(images=picture, return_tensors="pt")["pixel_values"])
        size = [(picture.height, picture.width)]
        (answer,) = processor.post_process_object_detection(output, threshold=0.0, target_sizes=size)
        rows = zip(answer["scores"].tolist(), answer["labels"].tolist(), answer["boxes"].tolist(), strict=True)
        for number, (score, label, (x0, y0, x1, y1)) in enumerate(rows):
            one = {
                "image_id": image["id"],
                "category_id": ids[network.config.id2label[label]],
                "bbox": [x0, y0, x1 - x0, y1 - y0],
            }
            found.append({**one, "score": score})
            if number % 4 == 0:
                moved = [x0 + number % 7, y0 + number % 5, x1 - x0, y1 - y0]
                area = (x1 - x0) * (y1 - y0)
                own = {"id": len(truth["annotations"]) + 1, "iscrowd": 0, "area": area}
                truth["annotations"].append({**one, **own, "bbox": moved})
    path.write_text(json.dumps(truth))
    wanted = twelve(truth, found)
    shown = detr("eval", tmp_path / "data", "--weights", folder, "--json", "--device", "cpu")
    assert shown.code == 0, shown.err
    assert wanted["AR100"] > 0.05
    assert json.loads(shown.out)["metrics"] == pytest.approx(wanted, abs=5e-3)
