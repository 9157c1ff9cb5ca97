"""Small random cases, by hypothesis or from a seed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detrcli.structures import Prediction, QueryGroup, Target


def counted(full: int, *strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Any]:
    """A hypothesis test of a tenth of `full` cases by default, and of all of them where slow ones are run."""

    def decorate(test: Callable[..., None]) -> Any:
        # One test body, two counts: the parameter decides how many examples hypothesis draws.
        @pytest.mark.parametrize(
            "cases", [full // 10, pytest.param(full, marks=pytest.mark.slow)], ids=["tenth", "full"]
        )
        def run(cases: int) -> None:
            settings(max_examples=cases)(given(*strategies)(test))()

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        return run

    return decorate


def random_prediction(g: torch.Generator, images: int, queries: int, classes: int) -> Prediction:
    logits = 2 * torch.randn(images, queries, classes + 1, generator=g)
    return Prediction(logits, random_boxes(g, images, queries))


def group_of(*layers: Prediction, name: str = "decoder", **facts: Any) -> QueryGroup:
    """Predictions of one layer after the other as a group."""
    logits, boxes = (torch.stack([getattr(one, what) for one in layers]) for what in ("logits", "boxes"))
    return QueryGroup(name, logits, boxes, **facts)


def random_target(g: torch.Generator, objects: int, classes: int) -> Target:
    return Target(torch.randint(classes, (objects,), generator=g), random_boxes(g, objects))


def random_boxes(g: torch.Generator, *shape: int) -> torch.Tensor:
    center = torch.rand(*shape, 2, generator=g)
    size = 0.02 + 0.5 * torch.rand(*shape, 2, generator=g)
    return torch.cat([center, size], -1)


@st.composite
def seeds(draw: st.DrawFn) -> torch.Generator:
    return torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
