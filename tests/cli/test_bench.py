"""`detr bench`: engines side by side, and one sentence that follows from what was measured."""

from pathlib import Path

import pytest
from here import Detr
from small import TINY, small_weights

from detrcli.api import benchmarking
from detrcli.api.benchmarking import Benchmark, EngineSpeed
from detrcli.checkpoints.formats import native


def test_engines_side_by_side(detr: Detr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    native.save(small_weights(TINY), tmp_path / "w.safetensors")
    engines = (("plain", "fp32"), ("fast", "fp32"), ("fast", "bf16"), ("openvino", "fp32"))
    monkeypatch.setattr(benchmarking, "ENGINES", engines)
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)  # not installed
    shown = detr("bench", "w.safetensors", "--rounds", 2, "--device", "cpu", "--json")
    assert shown.code == 0, shown.err
    assert "openvino is left out: openvino needs the package openvino" in shown.err
    assert shown.json["schema"] == "detr.bench/1"
    assert shown.json["picture"] == [640, 480]
    found = shown.json["engines"]
    assert [(one["engine"], one["precision"]) for one in found] == list(engines[:3])
    for one in found:
        assert set(one["seconds"]) == {"reading", "network", "postprocessing"}
        assert min(one["seconds"].values()) > 0
    plain, fast, bf16 = found
    assert (plain["times_plain"], plain["difference"]) == (1, 0)
    assert 0 < fast["difference"] < 1e-4 < bf16["difference"] < 0.1
    table = detr("bench", "w.safetensors", "--rounds", 1, "--device", "cpu").out
    assert "fast, fp32, from file to detections:" in table
    assert "% of the time" in table.splitlines()[-1]


@pytest.mark.parametrize(
    ("fast", "bf16", "said"),
    [
        ((0.1, 0.8, 0.1), (0.1, 0.3, 0.1), "The network takes 80% of the time: --engine fast --precision bf16 is"),
        ((0.1, 0.8, 0.1), (0.1, 0.8, 0.1), "The network takes 80% of the time, and no other way"),
        ((0.6, 0.3, 0.1), (0.6, 0.1, 0.1), "Reading pictures takes 60% of the time: more processes"),
    ],
)
def test_the_bottleneck(fast: tuple[float, ...], bf16: tuple[float, ...], said: str) -> None:
    def speed(precision: str, seconds: tuple[float, ...]) -> EngineSpeed:
        stages = ("reading", "network", "postprocessing")
        return EngineSpeed("fast", precision, dict(zip(stages, seconds, strict=True)), 0.0)

    assert Benchmark((640, 480), [speed("fp32", fast), speed("bf16", bf16)], {}).bottleneck.startswith(said)
