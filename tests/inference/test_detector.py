"""The detector: results do not depend on the batch, the order or the type of the image."""

import gc
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small import CONFIG, TINY, small_weights

import detrcli
from detrcli.checkpoints.formats import native
from detrcli.config import ModelConfig
from detrcli.errors import DataError, DivergedError, UsageError, WeightsError
from detrcli.inference.detector import Detector
from detrcli.inference.engines import EngineName, PlainEngine
from detrcli.structures import Batch, Detections, Output

SIZES = [(64, 96), (100, 60), (64, 96), (96, 64), (32, 48), (200, 300), (64, 96), (70, 70)]


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(small_weights(), "cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i, (h, w) in enumerate(SIZES):
        Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


def same(a: Detections, b: Detections, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(a.boxes, b.boxes, rtol=0, atol=300 * tolerance)
    np.testing.assert_allclose(a.scores, b.scores, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(a.category_ids, b.category_ids)
    np.testing.assert_array_equal(a.queries, b.queries)


def test_batched_and_single_results_are_identical(detector: Detector, images: list[Path]) -> None:
    """In a list, in another order: nothing changes where an image has its batch for itself."""
    alone = [detector.predict(path, threshold=0) for path in images]
    for order in (1, -1):
        for listed, single in zip(detector.predict(images[::order], threshold=0), alone[::order], strict=True):
            same(listed, single, 0)


@pytest.mark.parametrize("batch_size", [2, 3, 8])
@pytest.mark.parametrize("config", [CONFIG, TINY], ids=["detr", "detr-tiny"])
def test_results_do_not_depend_on_the_batch_size(config: ModelConfig, images: list[Path], batch_size: int) -> None:
    detector = Detector(small_weights(config), "cpu")
    alone = detector.predict(images, threshold=0)
    for single, together in zip(alone, detector.predict(images, threshold=0, batch_size=batch_size), strict=True):
        assert sorted(single.queries) == list(range(9))
        assert len(set(single.scores.tolist())) > 1
        same(single, together)
    assert not np.allclose(alone[0].boxes, alone[2].boxes, atol=1e-3)


def test_only_equal_sizes_share_a_batch(
    detector: Detector, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    engine = detector.engine

    def watched(batch: Batch) -> Output:
        assert batch.padding is None
        shapes.append(tuple(batch.images.shape))
        return engine(batch)

    monkeypatch.setattr(detector, "engine", watched)
    detector.predict(images, batch_size=3)
    assert max(count for count, *_ in shapes) == 3
    assert sum(count for count, *_ in shapes) == len(images)


def test_all_image_types_give_the_same_detections(detector: Detector, images: list[Path]) -> None:
    path = images[1]
    image = Image.open(path)
    for source in (str(path), image, np.asarray(image)):
        same(detector.predict(source, threshold=0), detector.predict(path, threshold=0), 0)


def test_detections(detector: Detector, images: list[Path]) -> None:
    """By falling score above the threshold; every query in its order at 0; ids and names of the data."""
    every = detector.predict(images[0], threshold=0)
    assert len(every) == 9
    assert every.queries.tolist() == list(range(9))
    assert every.boxes.shape == (9, 4)
    threshold = float(np.median(every.scores))
    some = detector.predict(images[0], threshold=threshold)
    assert (np.diff(some.scores) <= 0).all()
    assert sorted(some.queries) == [q for q in range(9) if every.scores[q] >= threshold]
    assert threshold in some.scores
    names = {7: "cat", 1: "dog", 4_000_000_007: "Żubr"}
    assert [names[i] for i in every.category_ids.tolist()] == every.labels.tolist()


def test_a_bad_image_is_named_in_the_error(detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jpg: "):
        detector.predict(tmp_path / "nowhere.jpg")
    for array in (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((3, 4, 4), np.uint8)):
        with pytest.raises(DataError, match="must be uint8, height x width x 3"):
            detector.predict(array)


def test_stream_continues_after_a_bad_image(detector: Detector, images: list[Path], tmp_path: Path) -> None:
    sources = [images[0], tmp_path / "nowhere.jpg", images[1]]
    for batch_size in (1, 4):
        seen = list(detector.stream(sources, batch_size=batch_size))
        assert [s.source for s in seen] == sources
        assert [s.problem is None for s in seen] == [True, False, True]
        assert [s.detections is None for s in seen] == [False, True, False]


def test_half_precisions_are_close(images: list[Path], detector: Detector) -> None:
    exact = detector.predict(images[0], threshold=0)
    for precision in ("bf16", "fp16"):
        half = Detector(small_weights(), "cpu", precision).predict(images[0], threshold=0)
        assert 0 < np.abs(half.scores - exact.scores).max() < 0.1
        assert half.scores.dtype == np.float32


def test_bf16_on_a_cpu_without_it_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False}, raising=False)
    with pytest.warns(UserWarning, match="does not compute in bf16"):
        Detector(small_weights(), "cpu", "bf16")


def test_load(tmp_path: Path, images: list[Path], detector: Detector) -> None:
    native.save(small_weights(), tmp_path / "w.safetensors")
    loaded = detrcli.load(tmp_path / "w.safetensors", device="cpu")
    assert isinstance(loaded, detrcli.Detector)
    found = loaded.predict(images[0], threshold=0)
    assert isinstance(found, detrcli.Detections)
    same(found, detector.predict(images[0], threshold=0), 0)
    with pytest.raises(AttributeError, match="nothing"):
        detrcli.nothing  # noqa: B018  # the look-up itself is what fails


@pytest.mark.parametrize("engine", ["plain", "fast"])
def test_forward_computes_in_exact_float32(engine: EngineName, images: list[Path]) -> None:
    """Also if the process permits TF32."""
    detector = Detector(small_weights(), "cpu", engine=engine)
    exact = detector.predict(images[0], threshold=0)
    inside = []
    computed = detector.engine
    assert isinstance(computed, PlainEngine)
    hook = computed.model.register_forward_pre_hook(
        lambda *_: inside.append(
            (torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision)
        )
    )
    torch.set_float32_matmul_precision("medium")
    try:
        same(detector.predict(images[0], threshold=0), exact, 0)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
        hook.remove()
    assert inside == [("ieee", "ieee")]


def test_stream_reads_ahead(detector: Detector, images: list[Path]) -> None:
    """When the first result comes, the next images are already being read."""
    taken = []

    def sources() -> Iterator[Path]:
        for path in images * 3:
            taken.append(path)
            yield path

    stream = detector.stream(sources())
    next(stream)
    assert 1 < len(taken) < len(images) * 3
    stream.close()


def test_global_state_does_not_change(detector: Detector, images: list[Path]) -> None:
    before = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    list(detector.stream(images * 5, batch_size=4))
    assert (list(warnings.filters), Image.MAX_IMAGE_PIXELS) == before


def test_usage_errors_of_calls(detector: Detector, tmp_path: Path) -> None:
    assert detector.predict([]) == []
    with pytest.raises(UsageError, match="precision=half"):
        Detector(small_weights(), "cpu", "half")
    for threshold in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match="between 0 and 1"):
            detector.predict(tmp_path, threshold=threshold)
    for size in (0, -1):
        with pytest.raises(UsageError, match="at least 1"):
            detector.predict([tmp_path], batch_size=size)
    for odd in (None, b"bytes", 3):
        with pytest.raises(DataError, match="path, a Pillow image or an array"):
            detector.predict(odd)
    with pytest.raises(DataError):
        detector.predict(np.zeros((0, 5, 3), np.uint8))
    with pytest.raises(DataError, match="no pixels"):
        detector.predict(Image.new("RGB", (0, 5)))
    Image.effect_noise((200, 200), 50).save(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:3000])
    with Image.open(tmp_path / "b.jpg") as lazy, pytest.raises(DataError, match="cannot be decoded"):
        detector.predict(lazy)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["box_head.layers.2.bias", "class_head.bias"])
def test_weights_that_are_not_finite_are_refused(name: str, value: float) -> None:
    small = small_weights()
    broken = {**small.tensors, name: torch.full_like(small.tensors[name], value)}
    with pytest.raises(WeightsError, match=f"not finite: {name}"):
        Detector(replace(small, tensors=broken), "cpu")


def test_predictions_that_are_not_finite_are_an_error(detector: Detector, images: list[Path]) -> None:
    """Finite weights can overflow all the same."""
    small = small_weights()
    large = {**small.tensors, "class_head.weight": torch.full_like(small.tensors["class_head.weight"], 3e38)}
    with pytest.raises(DivergedError, match="not finite"):
        Detector(replace(small, tensors=large), "cpu").predict(images[0])


@pytest.mark.parametrize("engine", ["fast", "plain"])
def test_detectors_without_model(engine: EngineName) -> None:
    """The plain model's convolutions are held no longer, where the engine has folded its own."""
    whole = Detector(small_weights(), "cpu", engine=engine)
    picture = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    before, parameters = whole.predict(picture, threshold=0), whole.parameters
    alone = whole.without_model()
    kept = weakref.ref(next(whole.model.backbone.parameters()))
    del whole
    gc.collect()
    after = alone.predict(picture, threshold=0)
    assert np.array_equal(after.boxes, before.boxes)
    assert np.array_equal(after.scores, before.scores)
    assert alone.parameters == parameters
    assert (kept() is None) == (engine == "fast")
    if engine == "fast":
        with pytest.raises(UsageError):
            alone.inspect()
