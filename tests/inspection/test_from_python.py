"""What the commands that look inside do, asked for from Python."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small import small_weights

from detrcli.api.inspecting import RunReport, explain_matching, look, walk
from detrcli.checkpoints.formats.native import save
from detrcli.data.make import make_shapes
from detrcli.errors import DataError, UsageError
from detrcli.inference.detector import Detector
from detrcli.training.run_folder import METRICS_FILE

PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_shapes(folder / "shapes", images=10, size=64, classes=("circle",), objects=2)
    save(small_weights(), folder / "w.safetensors")
    path = folder / "shapes" / "annotations" / "instances_val.json"
    path.write_text(path.read_text().replace('"circle"', '"dog"'))
    return folder / "shapes"


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(small_weights(), "cpu")


def test_a_detector_or_its_weights(data: Path, detector: Detector) -> None:
    picture, file = data / "val" / "000000.png", data.parent / "w.safetensors"
    maps = look(picture, detector, queries=[1, 2]).maps
    np.testing.assert_array_equal(look(picture, file, queries=[1, 2], device="cpu").maps, maps)
    np.testing.assert_allclose(maps.sum((-2, -1)), 1, rtol=0, atol=1e-5)


def test_the_matching_of_an_image_and_of_a_split(data: Path, detector: Detector) -> None:
    one = explain_matching(data, detector, image="000001.png", layers="all")
    assert one.document["image"]["id"] == 2
    assert one._repr_png_().startswith(PNG)
    whole = explain_matching(data, detector, whole_split=True)
    assert whole.document["images"] == 2
    assert whole.document["schema"] == "detr.match-debug-all/1"
    assert whole._repr_png_().startswith(PNG)
    with pytest.raises(UsageError):
        explain_matching()


def test_weights_are_not_asked_for_where_the_data_has_errors(data: Path, tmp_path: Path) -> None:
    make_shapes(tmp_path / "broken", images=10, size=64)
    (tmp_path / "broken" / "val" / "000000.png").unlink()
    with pytest.raises(DataError, match="1 error in the data"):
        explain_matching(tmp_path / "broken", "nowhere")


def test_the_matching_of_a_run(tmp_path: Path, kept: Callable[[Path], None]) -> None:
    kept(tmp_path)
    found = explain_matching(run=tmp_path)
    assert isinstance(found.report, RunReport)
    assert found.report.moved.tolist() == [[1, 2], [0, 1]]
    assert found.document["evaluations"] == [
        {"epoch": 4, "changed": [1, 2], "loss": 2.0, "AP": None},
        {"epoch": 6, "changed": [0, 1], "loss": 1.0, "AP": 0.5},
    ]
    assert found._repr_png_().startswith(PNG)
    (tmp_path / METRICS_FILE).write_text("epoch,loss,AP\nlast,1,1\n")
    with pytest.raises(DataError, match="figures of a training"):
        explain_matching(run=tmp_path)


@pytest.fixture
def kept() -> Callable[[Path], None]:
    """Writes what a training of one image with two objects keeps of three evaluations, and its metrics."""

    def write(run: Path) -> None:
        queries = [[[0, 1], [2, 3]], [[0, 4], [3, 2]], [[0, 4], [3, 5]]]  # (E, L, N)
        np.savez(
            run / "matching.npz",
            epochs=np.array([2, 4, 6]),
            queries=np.array(queries),
            image_ids=np.array([7]),
            counts=np.array([2]),
        )
        with (run / METRICS_FILE).open("w", newline="") as file:
            csv.writer(file).writerows([("epoch", "loss", "AP"), (2, 3, 0.1), (4, 2, ""), (6, 1, 0.5)])

    return write


def test_a_walk_ends_in_what_predict_finds(data: Path, detector: Detector, tmp_path: Path) -> None:
    picture = data / "val" / "000000.png"
    way = walk(picture, detector)
    assert (way.width, way.height, way.input_width, way.input_height) == (64, 64, 64, 64)
    assert way.steps[0].shape == (3, 64, 64)
    assert way.own_shapes == [step.shape for step in way.steps]
    said = detector.predict(picture, threshold=0)
    order = np.argsort(-said.scores, kind="stable")
    assert way.detections.queries.tolist() == said.queries[order].tolist()
    np.testing.assert_array_equal(way.detections.scores, said.scores[order])
    (tmp_path / "b.png").write_text("no picture")
    for named in ("b.png", "none.png"):
        with pytest.raises(DataError, match=named):
            walk(tmp_path / named, detector)
