"""Attention beside relevance: what is told of each map, and of the model without a relevance."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from small import CONFIG, TINY, small_weights

from detrcli.config import ModelConfig
from detrcli.data.masks import Mask
from detrcli.errors import UsageError
from detrcli.inference.detector import Detector
from detrcli.inspection.comparison import compare_maps
from detrcli.inspection.look import PictureRecord, record_picture
from detrcli.inspection.maps import box_coverage
from detrcli.inspection.relevance import relevance


def record(config: ModelConfig) -> PictureRecord:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8))
    return record_picture(Detector(small_weights(config), "cpu"), image)


@pytest.mark.parametrize("config", [CONFIG, TINY], ids=["detr", "detr-tiny"])
def test_maps_are_those_of_attention_and_relevance(config: ModelConfig) -> None:
    seen, queries = record(config), [5, 0, 8]
    found = compare_maps(seen, queries, 1, None)
    arrays = found.arrays
    expected = seen.forward.cross(1, queries).density()[0].mean(1)
    np.testing.assert_allclose(arrays["cross"][0, :, 0], expected, atol=1e-6)
    np.testing.assert_allclose(arrays["relevance"], relevance(seen.detector, seen.pixels, queries), atol=1e-6)
    np.testing.assert_allclose(found.maps.sum((-2, -1)), 1, rtol=1e-5)
    for i, query in enumerate(found.document["queries"]):
        for name, map_ in (("attention", arrays["cross"][0, i, 0]), ("relevance", arrays["relevance"][i])):
            assert query["maps"][name]["most"] == pytest.approx(map_.max(), abs=1e-6)
            inside = (map_ * box_coverage(seen.box_in_input(-1, queries[i]), map_.shape)).sum()
            assert query["maps"][name]["in_box"] == pytest.approx(inside, abs=1e-6)
    assert "shares_hidden" not in found.document
    assert {len(row) for row in found.rows} == {len(found.columns)}
    assert found.remarks == []


@pytest.mark.slow
def test_measured_with_masks() -> None:
    """The mask is a query's box, and belongs to it by class and place; that of another class does not."""
    seen = record(CONFIG)
    said = seen.prediction(-1, 3)
    x0, y0, x1, y1 = np.array(said.box).clip(0, [90, 60, 90, 60]).round().astype(int).tolist()
    pixels = np.zeros((60, 90), dtype=bool)
    pixels[y0:y1, x0:x1] = True
    masks = [Mask("other", ~pixels), Mask(said.label.upper(), pixels)]
    done: list[int] = []
    found = compare_maps(seen, [3], 1, None, measured=True, masks=masks, advance=lambda: done.append(1))
    assert len(done) == 1
    (query,) = found.document["queries"]
    assert set(query["maps"]) == {"attention", "relevance", "random"}
    for name, told in query["maps"].items():
        assert told["deletion"][0] == pytest.approx(said.score, abs=1e-4)
        assert told["insertion"][-1] == pytest.approx(said.score, abs=1e-4)
        assert told["deletion"][-1] == pytest.approx(told["insertion"][0], abs=1e-5)
        assert 0 < told["deletion_area"] < 1
        if name != "random":  # the mask is the box, but for what is rounded
            assert told["in_mask"] == pytest.approx(told["in_box"], abs=0.05)
    assert {len(row) for row in found.rows} == {len(found.columns)}
    assert found.columns[-3:] == ["in its mask", "deletion", "insertion"]
    assert "Relevance beats attention for" in found.remarks[1]
    (none,) = compare_maps(seen, [3], 1, None, masks=masks[:1]).queries
    assert none.facts["attention"].in_mask is None


def test_without_relevance_attention_can_still_be_measured() -> None:
    seen = record(TINY)
    inspectable = seen.inspectable
    inspectable.abilities = frozenset({"cross-attention"})
    seen = replace(seen, inspectable=inspectable)
    with pytest.raises(UsageError, match="no relevance to show. It can show: cross-attention"):
        compare_maps(seen, [0], 1, None)
    found = compare_maps(seen, [0], 1, None, measured=True)
    assert set(found.document["queries"][0]["maps"]) == {"attention", "random"}
    assert "Attention beats random for" in found.remarks[1]
