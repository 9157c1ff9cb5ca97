"""A bounded map over a thread pool."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from detrcli.system.prefetch import prefetch


def test_order_is_kept_and_few_items_are_taken_ahead() -> None:
    taken: list[int] = []
    items = (taken.append(i) or i for i in range(50))
    with ThreadPoolExecutor(4) as pool:
        results = prefetch(pool, lambda i: (time.sleep(0.001 * (i % 3)), i)[1], items, depth=5)
        assert next(results) == 0
        assert len(taken) <= 5
        assert list(results) == list(range(1, 50))


def test_exceptions_are_raised() -> None:
    with ThreadPoolExecutor(2) as pool, pytest.raises(ZeroDivisionError):
        list(prefetch(pool, lambda i: 1 // i, [1, 0, 2], depth=2))
