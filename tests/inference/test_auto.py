"""The engine `auto`: OpenVINO for long work, the fast engine for short work and where OpenVINO fails."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from here import Detr, Notes
from PIL import Image
from small import TINY, small_weights
from torch import Tensor, nn

from detrcli.checkpoints.formats import native
from detrcli.errors import UsageError, WeightsError
from detrcli.inference import auto
from detrcli.inference.auto import AutoEngine, gflop_of, pays
from detrcli.inference.detector import Detector
from detrcli.inference.engines import FastEngine
from detrcli.structures import Batch, Prediction

pytest.importorskip("openvino")
BATCH = Batch(torch.randn(1, 3, 64, 96), None)
MARK = torch.full((1, 9, 4), 0.5)


class Exports:
    """Replaces OpenVINO. Its predictions have boxes of MARK."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None, *, cached: bool = False
    ) -> None:
        self.count, self.error = 0, error
        monkeypatch.setattr(auto, "export_path", lambda *_: Path("/" if cached else "/nowhere"))
        monkeypatch.setattr(auto, "cached_export", self.export)
        monkeypatch.setattr(type(auto.OPENVINO), "open", lambda *_: self.engine)

    def export(self, *_: Any) -> Path:
        self.count += 1
        if self.error is not None:
            raise self.error
        return Path("model.xml")

    def engine(self, batch: Batch) -> Prediction:
        return Prediction(torch.zeros(len(batch.images), 9, 3), MARK)


@pytest.fixture
def slow_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images cost twenty seconds each on the test's threads, and few are enough."""
    monkeypatch.setattr(auto, "MIN_IMAGES", 1)
    monkeypatch.setattr("detrcli.inference.detector.MIN_IMAGES", 1)
    monkeypatch.setattr(auto, "gflop_of", lambda *_: 20 * auto.GFLOPS_PER_THREAD * torch.get_num_threads())


def test_the_rule() -> None:
    """OpenVINO saves a tenth of the time: of 200 seconds what an export takes, of 15 seconds what a start takes."""
    assert not pays(80.0, 200, 1, cached=False)
    assert pays(80.0, 201, 1, cached=False)
    assert not pays(80.0, 201, 2, cached=False)
    assert not pays(80.0, 15, 1, cached=True)
    assert pays(80.0, 16, 1, cached=True)


@pytest.mark.parametrize(("images", "cached", "used"), [(10, False, False), (11, False, True), (10, True, True)])
@pytest.mark.usefixtures("slow_model")
def test_known_number_of_images(images: int, cached: bool, used: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first image decides for all: each command computes with one engine."""
    exports, reporter = Exports(monkeypatch, cached=cached), Notes()
    detector = Detector(small_weights(TINY), "cpu", engine="auto", images=images, reporter=reporter)
    for _ in range(3):
        assert torch.equal(detector.engine(BATCH).boxes, MARK) == used
    assert exports.count == len(reporter.notes) == used


@pytest.mark.usefixtures("slow_model")
def test_unknown_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is replaced once as many images as would pay off have been computed."""
    Exports(monkeypatch)
    engine = Detector(small_weights(TINY), "cpu", engine="auto").engine
    assert isinstance(engine, AutoEngine)
    used = [torch.equal(engine(BATCH).boxes, MARK) for _ in range(13)]
    assert used == [False] * 10 + [True] * 3


@pytest.mark.parametrize(
    ("error", "notes"), [(UsageError("no"), 0), (WeightsError("differs"), 1), (RuntimeError("first\nsecond"), 1)]
)
@pytest.mark.usefixtures("slow_model")
def test_a_failed_export(error: Exception, notes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    exports, reporter = Exports(monkeypatch, error), Notes()
    detector = Detector(small_weights(TINY), "cpu", engine="auto", images=1000, reporter=reporter)
    fast = Detector(small_weights(TINY), "cpu", engine="fast")
    for _ in range(2):
        assert torch.equal(detector.engine(BATCH).boxes, fast.engine(BATCH).boxes)
    assert exports.count == 1
    assert len(reporter.notes) == notes
    assert not any("second" in note for note in reporter.notes)


def test_where_there_is_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = small_weights(TINY)
    assert type(Detector(weights, "cpu", engine="auto", images=auto.MIN_IMAGES - 1).engine) is FastEngine
    assert type(Detector(weights, "cpu", engine="auto", images=auto.MIN_IMAGES).engine) is AutoEngine
    assert type(Detector(weights, "cpu", images=1000).engine) is FastEngine
    monkeypatch.setattr("detrcli.inference.detector.has_openvino", lambda: False)
    assert type(Detector(weights, "cpu", engine="auto", images=1000).engine) is FastEngine


@torch.no_grad()
def test_counted_operations() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)

        def forward(self, batch: Batch) -> Tensor:
            return self.linear(self.conv(batch.images).movedim(1, 3))

    images: Any = Net()
    assert gflop_of(images, BATCH) * 1e9 == 2 * 64 * 96 * (3 * 9 * 8 + 8 * 5)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["predict", "eval"])
def test_commands(command: str, detr: Detr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a real export: the note is shown once, and the results are those of the fast engine."""
    for name in ("EXPORT_SECONDS", "START_SECONDS"):
        monkeypatch.setattr(auto, name, 0.0)
    monkeypatch.setattr("detrcli.inference.detector.MIN_IMAGES", 2)
    monkeypatch.setattr(auto, "MIN_IMAGES", 2)
    native.save(small_weights(TINY), tmp_path / "w.safetensors")
    for number in range(3):
        Image.fromarray(np.full((64, 96, 3), 60 * number, np.uint8)).save(tmp_path / f"{number}.png")
    call: dict[str, tuple[object, ...]] = {
        "predict": ("predict", *(f"{n}.png" for n in range(3)), "--threshold", 0, "--no-images"),
        "eval": ("eval", "shapes", "--limit", 3, "--match-classes-by-id"),
    }
    answers = [
        detr(*call[command], "--weights", "w.safetensors", "--json", *more) for more in ((), ("--engine", "fast"))
    ]
    assert [len(re.findall("computing with OpenVINO", answer.ok().err)) for answer in answers] == [1, 0]
    if command == "predict":
        boxes: Callable[[Any], Any] = lambda answer: [d["box"] for i in answer.json["images"] for d in i["detections"]]  # noqa: E731
        np.testing.assert_allclose(boxes(answers[0]), boxes(answers[1]), atol=0.05)
