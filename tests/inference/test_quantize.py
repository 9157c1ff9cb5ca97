"""INT8 models for OpenVINO: which layers stay in float32, what is measured, and when nothing is written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from here import Detr
from small import TINY, small_weights

import detrcli
from detrcli.api import quantizing
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.formats import native
from detrcli.data.make import make_shapes
from detrcli.errors import MachineError
from detrcli.inference.engines import PlainEngine

openvino = pytest.importorskip("openvino")
pytest.importorskip("nncf")
from detrcli.inference import quantize as quantization  # noqa: E402  # needs OpenVINO


def test_value_projections() -> None:
    """Layers before the sampled map, not those that compute where it is sampled."""
    ops = openvino.opset13 if hasattr(openvino, "opset13") else openvino.runtime.opset13
    parameter = ops.parameter([1, 4, 6], np.float32)

    def linear(x: Any, name: str) -> Any:
        made = ops.matmul(x, np.ones((6, 6), np.float32), False, False)
        made.set_friendly_name(name)
        return made

    hidden = linear(parameter, "hidden")
    values = ops.reshape(linear(hidden, "values"), np.array([1, 2, 3, 4]), False)
    points = ops.reshape(linear(parameter, "points"), np.array([1, 4, 3, 2]), False)
    sampled = ops.grid_sample(values, points, {})
    model = openvino.Model([ops.reshape(sampled, np.array([-1]), False)], [parameter])
    assert quantization.value_projections(model) == ["values"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "made"
    make_shapes(folder, images=40, size=64, objects=2)
    return folder


class Fake:
    """Replaces OpenVINO and nncf: engines that compute with other weights, and files with their sizes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, aps: list[float]) -> None:
        self.excluded: list[str] = []
        self.images: list[np.ndarray] = []
        self.aps = iter(aps)
        monkeypatch.setattr(quantizing, "cached_export", self.export)
        engine = PlainEngine(small_weights(TINY).model(), quantizing.CPU)
        monkeypatch.setattr(type(quantizing.OPENVINO), "open", lambda *_: engine)
        monkeypatch.setattr(quantizing, "CALIBRATION_IMAGES", 5)
        monkeypatch.setattr(quantization, "quantize", self.quantize)
        monkeypatch.setattr(quantizing, "ROUNDS", 1)
        original = quantizing.evaluate

        def evaluate(*args: Any, **options: Any) -> Any:
            made = original(*args, **options)
            made.metrics.update(AP=next(self.aps))
            return made

        monkeypatch.setattr(quantizing, "evaluate", evaluate)

    def export(self, checkpoint: Checkpoint, runtime: Any, precision: str, reporter: Any) -> Path:
        return self.write(Path("float32.xml"), 1000)

    def quantize(self, source: Path, path: Path, images: list[np.ndarray], excluded: str) -> None:
        self.excluded.append(excluded)
        self.images = images
        self.write(path, 300)

    def write(self, path: Path, size: int) -> Path:
        path.write_bytes(b"x")
        path.with_suffix(".bin").write_bytes(bytes(size - 1))
        return path


@pytest.mark.parametrize(
    ("aps", "limit", "excluded"),
    [
        ([0.5, 0.49], 0.01, ["attention values"]),
        ([0.5, 0.489, 0.495], 0.01, ["attention values", "linear layers"]),
        ([0.5, 0.3], 0.2, ["attention values"]),
        ([0.5, 0.6], 0.0, ["attention values"]),
    ],
)
def test_the_fastest_that_is_accurate_is_written(
    aps: list[float], limit: float, excluded: list[str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fake = Fake(monkeypatch, aps)
    native.save(small_weights(TINY), tmp_path / "w.safetensors")
    result = detrcli.quantize(
        tmp_path / "w.safetensors", data, tmp_path / "q.xml", limit=2, max_ap_drop=limit, match_classes_by_id=True
    )
    assert fake.excluded == excluded
    assert result.document["float32_layers"] == excluded[-1]
    assert result.document["AP"] == {"fp32": aps[0], "int8": aps[-1]}
    assert result.document["calibration"] == {"split": "train", "images": 5}
    assert result.document["bytes"] == {"fp32": 1000, "int8": 300}
    assert result.images == 2
    assert len(fake.images) == 5
    assert {image.shape[:2] for image in fake.images} == {(1, 3)}
    assert not np.array_equal(fake.images[0], fake.images[1])
    assert {path.name for path in tmp_path.iterdir()} == {
        "w.safetensors", "float32.xml", "float32.bin", "q.xml", "q.bin"
    }  # fmt: skip


def test_an_inaccurate_model_is_not_written(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, detr: Detr
) -> None:
    Fake(monkeypatch, [0.5, 0.4, 0.45])
    native.save(small_weights(TINY), tmp_path / "w.safetensors")
    call = ("export", "w.safetensors", "--format", "openvino", "--precision", "int8", "--out", "q.xml")
    options = ("--data", data, "--limit", 2, "--match-classes-by-id")
    detr(*call, *options).fails(4, "0.500", "0.400", "0.450", "--max-ap-drop")
    assert not list(tmp_path.glob("q.*"))
    detr(*call).fails(2, "--data")
    detr(*call[:2], "--format", "onnx", *call[4:-1], "q.onnx", *options).fails(2, "--format openvino")


def test_without_nncf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nncf", None)
    with pytest.raises(MachineError, match="pip install 'detrcli\\[int8\\]'"):
        detrcli.quantize("shapes", "shapes", tmp_path / "q.xml")


@pytest.mark.slow
def test_shipped_weights(tmp_path: Path, detr: Detr) -> None:
    """AP falls by less than 0.01, it is faster, and the file is used like other weights."""
    call = ("export", "shapes", "--format", "openvino", "--precision", "int8", "--data", "shapes", "--out", "q.xml")
    document = detr(*call, "--json").ok().json
    assert 0 < document["AP"]["fp32"] - document["AP"]["int8"] + 0.01 < 0.02
    assert 0.870 < document["AP"]["int8"] < 0.895
    assert document["bytes"]["int8"] < 0.5 * document["bytes"]["fp32"]
    if {"avx_vnni", "avx512_vnni"} & set(Path("/proc/cpuinfo").read_text().split()):
        assert document["speedup"] > 1.2  # 1.6 on a machine without other work
    assert detr("eval", "shapes", "--weights", "q.xml", "--json").ok().json["metrics"]["AP"] == document["AP"]["int8"]
    detr("data", "make", "shapes", "made").ok()
    image = next(iter(sorted(Path("made").rglob("*.png"))))
    found = [detr("predict", image, "--weights", w, "--no-images", "--json").ok().json for w in ("shapes", "q.xml")]
    labels = [sorted(d["label"] for d in document["images"][0]["detections"]) for document in found]
    assert labels[0] == labels[1]
    assert labels[0]
