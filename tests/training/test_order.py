"""The order of images: each image at most once per epoch, and steps that do not depend on their division."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detrcli.errors import UsageError
from detrcli.training.order import Order, for_other_processes

sizes = st.tuples(st.integers(6, 60), st.integers(1, 9), st.integers(1, 3), st.integers(1, 2))


@given(sizes)
def test_an_epoch_has_no_image_twice_and_drops_less_than_a_step(size: tuple[int, int, int, int]) -> None:
    order = Order(*size[:3], seed=1)
    for epoch in range(2):
        steps = range(epoch * order.steps, (epoch + 1) * order.steps)
        seen = [i for step in steps for batch in order.batches(step) for i in batch]
        assert len(seen) == len(set(seen)) == order.steps * order.step_size
        assert order.images - len(seen) < order.step_size
        assert set(seen) <= set(range(order.images))


@given(sizes)
def test_processes_and_accumulated_batches_divide_the_same_steps(size: tuple[int, int, int, int]) -> None:
    images, batch_size, accumulate, world = size
    whole = Order(images, batch_size * accumulate * world, 1, seed=3)
    parts = [Order(images, batch_size, accumulate, 3, rank, world) for rank in range(world)]
    assert {part.steps for part in parts} == {whole.steps}
    for step in range(2 * whole.steps):
        divided = [batch for part in parts for batch in part.batches(step)]
        assert len(divided) == world * accumulate
        assert all(divided), "every process has an image"
        assert [i for batch in divided for i in batch] == whole.batches(step)[0]


def test_batches_from_a_later_step() -> None:
    order = Order(10, 2, 2, seed=0)
    everything = list(order.sampler(0, 6))
    assert len(everything) == 12
    for step in range(6):
        assert list(order.sampler(step, 6)) == everything[2 * step :]
    assert [epoch for batch in everything for epoch, _ in batch] == [1] * 8 + [2] * 8 + [3] * 8


def test_seeds_and_epochs_differ() -> None:
    orders = {str(Order(50, 50, 1, seed).batches(epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


def test_few_images() -> None:
    order = Order(3, 16, 1, 0)
    assert (order.steps, order.step_size) == (1, 3)
    assert sorted(order.batches(7)[0]) == [0, 1, 2]
    with pytest.raises(UsageError, match="3 images"):
        Order(3, 1, 2, 0, 0, 2)


def test_batches_of_another_number_of_processes() -> None:
    assert for_other_processes(4, 2, before=2, now=1) == (4, 4)
    assert for_other_processes(2, 1, before=3, now=1) == (2, 3)
    assert for_other_processes(6, 1, before=1, now=2) == (3, 1)
    with pytest.raises(UsageError, match="3 processes"):
        for_other_processes(2, 1, before=2, now=3)
