"""Exports for other runtimes: they compute the same, are written whole, and are used like other weights."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from here import Detr, Notes, all_detections
from PIL import Image
from small import CONFIG, DEFORMABLE, DINO_CONFIG, TINY, TWO_STAGE, small_weights

import detrcli
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.formats import native
from detrcli.checkpoints.load import load_checkpoint
from detrcli.config import ModelConfig
from detrcli.errors import MachineError, UsageError, WeightsError
from detrcli.inference import export as exporting
from detrcli.inference import verification
from detrcli.inference.detector import Detector
from detrcli.inference.engines import PlainEngine
from detrcli.inference.export import RUNTIMES, ExportedEngine, Runtime, cached_export, export, runtime_of
from detrcli.structures import Batch

pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.slow) for name in ("onnx", "openvino")])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runtime = RUNTIMES[request.param]
    path = tmp_path_factory.mktemp("export") / f"model{runtime.suffix}"
    assert export(small_weights(TINY), runtime, path) <= 1e-4
    return path


def images(count: int = 3) -> list[np.ndarray]:
    random, sizes = np.random.default_rng(0), ((48, 64), (90, 40), (50, 201))
    return [random.integers(0, 255, (*size, 3), dtype=np.uint8) for size in sizes[:count]]


def test_an_export_is_used_as_weights(exported: Path) -> None:
    """Classes with their ids, sizes and scores come out as from the weights."""
    plain = Detector(small_weights(TINY), "cpu", engine="plain")
    other = detrcli.load(exported)
    assert isinstance(other.engine, ExportedEngine)
    for image in images():
        a, b, *batch = plain.predict(image, threshold=0), *other.predict([image] * 3, 0.0, 3), other.predict(image, 0.0)
        assert len(a) == len(b) == 9
        assert a.labels.tolist() == b.labels.tolist()
        assert a.category_ids.tolist() == b.category_ids.tolist()
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)
        np.testing.assert_allclose(a.boxes, b.boxes, atol=0.05)
        for same in batch:
            np.testing.assert_allclose(same.boxes, b.boxes, atol=1e-3)


def test_unsupported_uses_of_an_export(exported: Path, detr: Detr, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="detr predict"):
        _ = detrcli.load(exported).model
    other = "openvino" if exported.suffix == ".onnx" else "onnx"
    with pytest.raises(UsageError, match=f"engine={other}"):
        detrcli.load(exported, engine=other)
    with pytest.raises(UsageError, match="fp16"):
        detrcli.load(exported, precision="fp16")
    if exported.suffix == ".xml":  # whose precision is chosen when it is run
        assert detrcli.load(exported, precision="bf16").precision == "bf16"
    if torch.cuda.is_available():
        with pytest.raises(UsageError, match="device=cpu"):
            detrcli.load(exported, device="cuda")
    Image.fromarray(images(1)[0]).save(tmp_path / "a.png")
    detr("explain", tmp_path / "a.png", "--weights", exported).fails(2, str(exported))
    with pytest.raises(UsageError, match="detr predict"):  # to train, for example
        load_checkpoint(str(exported))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_export_predict_and_eval_as_commands(name: str, detr: Detr, tmp_path: Path) -> None:
    native.save(small_weights(TINY), tmp_path / "w.safetensors")
    out = tmp_path / f"small{RUNTIMES[name].suffix}"
    call = ("export", tmp_path / "w.safetensors", "--format", name, "--out", out)
    document = detr(*call, "--json").ok().json
    assert document["schema"] == "detr.export/1"
    assert document["file"] == str(out)
    assert 0 < document["largest_difference"] <= 1e-4
    assert {path.name for path in tmp_path.iterdir()} >= {
        f"small{ending}" for ending in (RUNTIMES[name].suffix, *RUNTIMES[name].sidecars)
    }
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    detr(*call).fails(2, str(out))
    Image.fromarray(images(1)[0]).save(tmp_path / "a.png")
    found = [all_detections(detr, "a.png", weights) for weights in ("w.safetensors", out)]
    assert [item["label"] for item in found[0]] == [item["label"] for item in found[1]]
    np.testing.assert_allclose(*([item["box"] for item in detections] for detections in found), atol=0.05)
    evaluate = ("eval", "shapes", "--weights", out, "--limit", 3, "--match-classes-by-id")
    assert detr(*evaluate, "--json").ok().json["parameters"] is None
    assert "parameters" not in detr(*evaluate).ok().out


def test_the_engine_is_exported_once(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the same weights, precision and versions; other weights get another."""
    monkeypatch.setenv("DETR_CACHE", str(tmp_path))
    runtime, made, reporter = runtime_of(exported), [], Notes()

    def copied(checkpoint: Checkpoint, runtime: Runtime, path: Path, precision: str) -> float:
        made.append(path)
        path.parent.mkdir(parents=True)
        for ending in (runtime.suffix, *runtime.sidecars):
            shutil.copy(exported.with_suffix(ending), path.with_suffix(ending))
        return 0.0

    monkeypatch.setattr(exporting, "export", copied)
    for _ in range(2):
        detector = Detector(small_weights(TINY), "cpu", engine=runtime.name, reporter=reporter)
        assert len(detector.predict(images(1)[0], threshold=0)) == 9
    assert len(made) == len(reporter.notes) == 1
    checkpoint = small_weights(TINY)
    changed = replace(checkpoint, tensors={name: value + 1e-3 for name, value in checkpoint.tensors.items()})
    for other in (changed, checkpoint.resized(48, 80)):
        cached_export(other, runtime, "fp32", reporter)
    assert len({path.parent for path in made}) == 3


@pytest.mark.parametrize("difference", [pytest.param(0.01, marks=pytest.mark.slow), float("nan")])
def test_an_export_that_differs_is_not_written(
    difference: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(PlainEngine):
        """An export that computes with other weights."""

        def __init__(self, path: Path, precision: str | None) -> None:
            model = small_weights(TINY).model()
            with torch.no_grad():
                model.get_submodule("class_head").get_parameter("bias")[0] += difference
            super().__init__(model, torch.device("cpu"))

    code = SimpleNamespace(write=lambda program, metadata, path, precision: path.touch(), open_engine=Other)
    monkeypatch.setattr(Runtime, "module", lambda self: code)
    with pytest.raises(WeightsError, match="differs from the plain model"):
        export(small_weights(TINY), RUNTIMES["onnx"], tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "precision"), [("onnx", "fp16"), ("openvino", "fp16"), ("openvino", "bf16")])
def test_other_precisions(name: str, precision: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{RUNTIMES[name].suffix}"
    difference = export(small_weights(TINY), RUNTIMES[name], path, precision)
    assert 1e-6 < difference < 0.1
    assert detrcli.load(path).precision == precision


def test_foreign_files_and_missing_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    (tmp_path / "broken.xml").write_text("<nothing/>")
    for path in tmp_path.iterdir():
        with pytest.raises(WeightsError, match="cannot read it"):
            detrcli.load(path)
    with pytest.raises(UsageError, match="precision=bf16"):
        export(small_weights(TINY), RUNTIMES["onnx"], tmp_path / "model.onnx", "bf16")
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(MachineError, match="pip install 'detrcli\\[openvino\\]'"):
        detrcli.load(tmp_path / "broken.xml")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "config", "count"),
    [
        ("onnx", CONFIG, 50),
        ("onnx", DINO_CONFIG, 3),
        ("onnx", TWO_STAGE, 3),
        ("openvino", TINY, 12),
        ("openvino", DEFORMABLE, 3),  # whose batch of two images had the strides of its queries
        ("openvino", DINO_CONFIG, 3),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, ModelConfig) else str(value),
)
def test_many_sizes_and_architectures(
    name: str, config: ModelConfig, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = torch.randint(50, 1000, (count - 3, 2), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(verification, "IMAGE_SIZES", [*verification.IMAGE_SIZES, *random.tolist()])
    path = tmp_path / f"model{RUNTIMES[name].suffix}"
    assert export(small_weights(config), RUNTIMES[name], path) <= 1e-4


def test_threads_share_an_openvino_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thread gets the predictions for its own images."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # the result was overwritten most often on one thread
    path = tmp_path / "model.xml"
    export(small_weights(TINY), RUNTIMES["openvino"], path)
    engine = RUNTIMES["openvino"].open(path)
    batches = [Batch(torch.randn(1, 3, 64, 96), None) for _ in range(4)]
    expected = [engine(batch) for batch in batches]

    def predict(number: int) -> bool:
        return all(torch.equal(engine(batches[number]).boxes, expected[number].boxes) for _ in range(15))

    with ThreadPoolExecutor(len(batches)) as pool:
        assert all(pool.map(predict, range(len(batches))))
