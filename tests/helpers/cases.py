"""Small random cases, by hypothesis or from a seed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detrcli.structures import Prediction, QueryGroup, Target


def counted(full: int, *strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Any]:
    """Decorate a hypothesis test that runs a tenth of `full` cases, and all cases with the slow tests."""

    def decorate(test: Callable[..., None]) -> Any:
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
    """Return a query group with these predictions of its layers."""
    logits, boxes = torch.stack([p.logits for p in layers]), torch.stack([p.boxes for p in layers])
    return QueryGroup(name, logits, boxes, **facts)


@dataclass(frozen=True)
class GivenMasks:
    """Masks with these logits."""

    logits: torch.Tensor  # (B, Q, h, w)
    input_size: tuple[int, int]
    by_corner: bool = True

    def __call__(self, images: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        return self.logits[images, queries]


def certain_logits(labels: Sequence[int], logits: int = 5) -> torch.Tensor:
    """Return logits (Q, R) of queries that predict these classes with certainty."""
    return 18.0 * torch.nn.functional.one_hot(torch.tensor(labels), logits) - 9


def random_target(g: torch.Generator, objects: int, classes: int) -> Target:
    return Target(torch.randint(classes, (objects,), generator=g), random_boxes(g, objects))


def random_boxes(g: torch.Generator, *shape: int) -> torch.Tensor:
    center = torch.rand(*shape, 2, generator=g)
    size = 0.02 + 0.5 * torch.rand(*shape, 2, generator=g)
    return torch.cat([center, size], -1)


@st.composite
def seeds(draw: st.DrawFn) -> torch.Generator:
    return torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
