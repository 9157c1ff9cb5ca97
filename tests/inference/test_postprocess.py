"""Postprocessing: from logits and boxes to detections."""

import numpy as np
import pytest
import torch
from letterbox import Letterbox

from detrcli.boxes import clip_boxes
from detrcli.config import Preprocessing
from detrcli.errors import DivergedError
from detrcli.inference.detector import detections
from detrcli.losses.scoring import Sigmoid, Softmax
from detrcli.resize import ExactSize
from detrcli.structures import Classes, Detections, Prediction

CLASSES = Classes(ids=np.array([10, 20]), names=np.array(["ant", "bee"]))
# The scores are 0.75, 0.5, 0.1 and 0.25.
LOGITS = torch.tensor([[3.0, 1], [1 / 9, 1 / 3]]).log()[None]
BOXES = torch.tensor([[[0.5, 0.5, 0.25, 1], [0.25, 0.5, 0.5, 0.5]]])


def test_a_query_may_have_several_classes() -> None:
    """With the same box and by falling score; a threshold cuts off."""
    prediction = Prediction(LOGITS, BOXES)
    (every,) = detections(prediction, [(100, 200)], CLASSES, Sigmoid(), Preprocessing())
    assert every.queries.tolist() == [0, 0, 1, 1]
    assert every.category_ids.tolist() == [10, 20, 20, 10]
    assert every.labels.tolist() == ["ant", "bee", "bee", "ant"]
    np.testing.assert_allclose(every.scores, [0.75, 0.5, 0.25, 0.1], rtol=0, atol=1e-6)
    assert every.boxes[0].tolist() == every.boxes[1].tolist() == [75, 0, 125, 100]
    (some,) = detections(prediction, [(100, 200)], CLASSES, Sigmoid(), Preprocessing(), 0.3)
    assert some.queries.tolist() == [0, 0]


def test_softmax_gives_a_query_a_single_class() -> None:
    logits = torch.tensor([[[1.0, 2, 5], [6, 1, 1]]]).log()
    (every,) = detections(Prediction(logits, BOXES), [(100, 200)], CLASSES, Softmax(), Preprocessing())
    assert every.queries.tolist() == [0, 1]
    assert every.category_ids.tolist() == [20, 10]
    np.testing.assert_allclose(every.scores, [0.25, 0.75], rtol=0, atol=1e-6)
    (sorted_,) = detections(Prediction(logits, BOXES), [(100, 200)], CLASSES, Softmax(), Preprocessing(), 0.1)
    assert sorted_.queries.tolist() == [1, 0]


def test_boxes_are_in_pixels_of_the_image() -> None:
    """However it was brought into the input: 100 x 200 pixels are 32 x 64 in the middle of 64 x 64."""
    box = torch.tensor([[[0.25, 0.5, 0.5, 0.25]]])  # 0..32 by 24..40 of the input
    prediction = Prediction(LOGITS[:, :1], box)
    letterbox, exact = Preprocessing(Letterbox(64, 64)), Preprocessing(ExactSize(64, 64))
    (found,) = detections(prediction, [(100, 200)], CLASSES, Softmax(), letterbox)
    np.testing.assert_allclose(found.boxes, [[0, 25, 100, 75]], rtol=0, atol=1e-4)
    (found,) = detections(prediction, [(100, 200)], CLASSES, Softmax(), exact)
    np.testing.assert_allclose(found.boxes, [[0, 37.5, 100, 62.5]], rtol=0, atol=1e-4)


@pytest.mark.parametrize("threshold", [0.0, 0.1])
def test_equal_scores_are_in_query_order(threshold: float) -> None:
    """More than a sort that is not stable leaves in order by chance."""
    logits = torch.zeros(1, 60, 3)
    logits[0, ::2, 0] = 3
    (found,) = detections(
        Prediction(logits, torch.full((1, 60, 4), 0.5)), [(9, 9)], CLASSES, Softmax(), Preprocessing(), threshold
    )
    expected = range(60) if threshold == 0 else [*range(0, 60, 2), *range(1, 60, 2)]
    assert found.queries.tolist() == list(expected)


@pytest.mark.parametrize("scoring", [Softmax(), Sigmoid()], ids=["softmax", "sigmoid"])
@pytest.mark.parametrize("what", ["logits", "boxes"])
def test_nonfinite_outputs_are_an_error(scoring: object, what: str) -> None:
    parts = {"logits": LOGITS.clone(), "boxes": BOXES.clone()}
    parts[what][0, 1, 0] = float("nan")
    with pytest.raises(DivergedError, match="not finite"):
        detections(Prediction(**parts), [(9, 9)], CLASSES, scoring, Preprocessing())


def several_classes() -> Detections:
    """Three queries, two of them with two classes."""
    return Detections(
        boxes=np.array([[0, 0, 9, 9], [0, 0, 9, 9], [5, 5, 9, 9], [1, 1, 4, 4], [5, 5, 9, 9]], dtype=np.float32),
        scores=np.array([0.3, 0.6, 0.4, 0.5, 0.4], dtype=np.float32),
        category_ids=np.array([1, 2, 3, 4, 5]),
        queries=np.array([0, 0, 1, 7, 1]),
        labels=np.array(["a", "b", "c", "d", "e"]),
    )


def test_best_of_queries() -> None:
    assert several_classes().best_of_queries().labels.tolist() == ["b", "c", "d"]
    nothing = several_classes().part(np.zeros(5, dtype=bool))
    assert len(nothing.best_of_queries()) == len(nothing.highest(3)) == 0


def test_highest_scores_keep_their_order() -> None:
    every = several_classes()
    assert [every.highest(count).labels.tolist() for count in (1, 3, 9)] == [
        ["b"],
        ["b", "c", "d"],
        ["a", "b", "c", "d", "e"],
    ]


def test_clipped_boxes() -> None:
    boxes = torch.tensor([[-3.0, -2, 9, 8], [1, 2, 30, 40], [-9, 3, -4, 5], [25, 3, 30, 5], [1, 2, 3, 4]])
    expected = [[0, 0, 9, 8], [1, 2, 20, 10], [0, 3, 0, 5], [20, 3, 20, 5], [1, 2, 3, 4]]
    assert clip_boxes(boxes, 10, 20).tolist() == expected
    assert clip_boxes(boxes.reshape(1, 5, 4), 10, 20).tolist() == [expected]
