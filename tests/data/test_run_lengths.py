"""Run lengths are pycocotools' own, and rows of masks are cut and read as arrays are."""

import numpy as np
import pytest
from pycocotools import mask as rle

from detrcli.run_lengths import MaskRows, decode, encode


def test_there_and_back() -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 0.03, 0.5, 1.0):
        mask = rng.random((37, 53)) < share
        assert np.array_equal(decode(encode(mask), 37, 53), mask)
        assert encode(mask) == rle.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    with pytest.raises(ValueError, match="do not fill"):
        decode(encode(mask), 37, 52)


def test_rows_of_masks() -> None:
    masks = [np.arange(12).reshape(3, 4) % n == 0 for n in (2, 3, 5)]
    rows = MaskRows.of(masks, (3, 4))
    assert len(rows) == 3
    assert all(np.array_equal(a, b) for a, b in zip(rows, masks, strict=True))
    assert np.array_equal(rows[2], masks[2])
    for chosen in (np.array([2, 0]), np.array([True, False, True]), np.array([], dtype=np.int64)):
        assert [mask.tolist() for mask in rows[chosen]] == np.array(masks)[chosen].tolist()
    assert rows.rle(1)["size"] == [3, 4]
    assert np.array_equal(decode(rows.rle(1)["counts"].encode(), 3, 4), masks[1])
