"""The functions that look inside, called from Python."""

from pathlib import Path

import numpy as np
import pytest
from small import small_weights

from detrcli.api.inspecting import explain_matching, look, walk
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


def test_a_detector_or_a_file(data: Path, detector: Detector) -> None:
    image, file = data / "val" / "000000.png", data.parent / "w.safetensors"
    maps = look(image, detector, queries=[1, 2]).maps
    np.testing.assert_array_equal(look(image, file, queries=[1, 2], device="cpu").maps, maps)
    np.testing.assert_allclose(maps.sum((-2, -1)), 1, rtol=0, atol=1e-5)


def test_the_matching_of_an_image_and_of_a_split(data: Path, detector: Detector) -> None:
    image = explain_matching(data, detector, image="000001.png", layers="all")
    assert image.document["image"]["id"] == 2
    assert image._repr_png_().startswith(PNG)
    split = explain_matching(data, detector, whole_split=True)
    assert split.document["images"] == 2
    assert split.document["schema"] == "detr.match-debug-all/1"
    assert split._repr_png_().startswith(PNG)
    with pytest.raises(UsageError):
        explain_matching()


def test_weights_are_not_loaded_if_the_data_has_errors(tmp_path: Path) -> None:
    make_shapes(tmp_path, images=10, size=64)
    (tmp_path / "val" / "000000.png").unlink()

    with pytest.raises(DataError):
        explain_matching(tmp_path, "nowhere")


def test_the_matching_of_a_run(tmp_path: Path) -> None:
    """An image with two objects, two layers and three evaluations."""
    queries = np.array([[[0, 1], [2, 3]], [[0, 4], [3, 2]], [[0, 4], [3, 5]]])  # (E, L, N)
    epochs, image_ids, counts = np.array([2, 4, 6]), np.array([7]), np.array([2])
    np.savez(tmp_path / "matching.npz", epochs=epochs, queries=queries, image_ids=image_ids, counts=counts)
    (tmp_path / METRICS_FILE).write_text("epoch,loss,AP\n2,3,0.1\n4,2,\n6,1,0.5\n")
    found = explain_matching(run=tmp_path)
    assert found.document["evaluations"] == [
        {"epoch": 4, "changed": [1, 2], "loss": 2.0, "AP": None},
        {"epoch": 6, "changed": [0, 1], "loss": 1.0, "AP": 0.5},
    ]
    assert found._repr_png_().startswith(PNG)
    (tmp_path / METRICS_FILE).write_text("epoch,loss,AP\nlast,1,1\n")
    with pytest.raises(DataError, match=METRICS_FILE):
        explain_matching(run=tmp_path)


def test_a_walk_ends_with_the_detections_of_predict(data: Path, detector: Detector, tmp_path: Path) -> None:
    image = data / "val" / "000000.png"
    way, predicted = walk(image, detector), detector.predict(image, threshold=0)
    assert (way.document["width"], way.document["height"]) == (64, 64)
    assert way.steps[0].shape == (3, 64, 64)
    assert way.own_shapes == [step.shape for step in way.steps]
    order = np.argsort(-predicted.scores, kind="stable")
    assert way.detections.queries.tolist() == predicted.queries[order].tolist()
    np.testing.assert_array_equal(way.detections.scores, predicted.scores[order])
    (tmp_path / "b.png").write_text("no image")
    for named in ("b.png", "none.png"):
        with pytest.raises(DataError, match=named):
            walk(tmp_path / named, detector)
