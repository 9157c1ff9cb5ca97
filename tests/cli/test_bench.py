"""`detr bench`: the engines and the bottleneck of the default."""

from pathlib import Path
from typing import Any

import pytest
from here import Detr
from small import TINY, small_weights

from detrcli.api import benchmarking
from detrcli.api.benchmarking import bottleneck
from detrcli.checkpoints.formats import native
from detrcli.errors import WeightsError
from detrcli.inference.detector import Detector


def test_engines_side_by_side(detr: Detr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    native.save(small_weights(TINY), tmp_path / "w.safetensors")
    engines = (("plain", "fp32"), ("fast", "fp32"), ("fast", "bf16"), ("openvino", "fp32"))
    monkeypatch.setattr(benchmarking, "ENGINES", engines)
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)  # not installed
    shown = detr("bench", "w.safetensors", "--rounds", 2, "--device", "cpu", "--json").ok()
    assert "openvino in fp32 is left out" in shown.err
    assert shown.json["schema"] == "detr.bench/1"
    assert shown.json["picture"] == [640, 480]
    speeds = shown.json["engines"]
    assert [(speed["engine"], speed["precision"]) for speed in speeds] == list(engines[:3])
    for speed in speeds:
        assert set(speed["seconds"]) == {"reading", "network", "postprocessing"}
        assert min(speed["seconds"].values()) > 0
    plain, fast, bf16 = speeds
    assert (plain["times_plain"], plain["difference"]) == (1, 0)
    assert 0 < fast["difference"] < 1e-4 < bf16["difference"] < 0.1
    table = detr("bench", "w.safetensors", "--rounds", 1, "--device", "cpu").out
    assert "fast, fp32" in table
    assert "% of the time" in table.splitlines()[-1]


def test_an_export_that_differs_is_left_out(detr: Detr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 can exchange proposals, and such an export is not used."""
    native.save(small_weights(TINY), tmp_path / "w.safetensors")
    monkeypatch.setattr(benchmarking, "ENGINES", (("plain", "fp32"), ("fast", "fp32"), ("fast", "bf16")))

    class Differing(Detector):
        def __init__(self, checkpoint: Any, device: Any, precision: Any, **options: Any) -> None:
            if precision == "bf16":
                raise WeightsError("w.safetensors: the bf16 export differs")
            super().__init__(checkpoint, device, precision, **options)

    monkeypatch.setattr(benchmarking, "Detector", Differing)
    shown = detr("bench", "w.safetensors", "--rounds", 1, "--device", "cpu", "--json").ok()
    assert "fast in bf16 is left out: w.safetensors: the bf16 export differs" in shown.err
    assert [speed["precision"] for speed in shown.json["engines"]] == ["fp32", "fp32"]


@pytest.mark.parametrize(
    ("fast", "bf16", "start"),
    [
        ((0.1, 0.8, 0.1), (0.1, 0.3, 0.1), "The network takes 80% of the time: engine fast in bf16 is 2.0 times"),
        ((0.1, 0.8, 0.1), (0.1, 0.75, 0.1), "The network takes 80% of the time, and no other engine"),
        ((0.6, 0.3, 0.1), (0.6, 0.1, 0.1), "Reading images takes 60% of the time"),
    ],
)
def test_the_bottleneck(fast: tuple[float, ...], bf16: tuple[float, ...], start: str) -> None:
    stages = ("reading", "network", "postprocessing")
    default: benchmarking.Key = ("fast", "fp32")
    seconds: dict[benchmarking.Key, dict[str, float]] = {
        default: dict(zip(stages, fast, strict=True)),
        ("fast", "bf16"): dict(zip(stages, bf16, strict=True)),
    }
    assert bottleneck(seconds, default).startswith(start)
