"""Outcomes of objects and detections by hand, bootstrap intervals on random splits, and curves by hand."""

from dataclasses import replace

import numpy as np
import pytest
from split import CAT, DOG, changed, random_split, results, truth

from detrcli.evaluation import comparison
from detrcli.evaluation.comparison import differences, interval_of_ap
from detrcli.evaluation.curves import SCORES, curves_of
from detrcli.evaluation.metrics import score
from detrcli.evaluation.outcomes import FALSE_POSITIVES, MISSED, outcomes_of
from detrcli.evaluation.results import Results, join

TRUE = truth(
    (1, CAT, (0, 0, 100, 100)),  # found
    (1, CAT, (200, 0, 100, 100)),  # predicted as a dog
    (2, DOG, (0, 0, 100, 100)),  # poor box
    (2, DOG, (200, 0, 100, 100)),  # low score
    (3, CAT, (0, 0, 100, 100)),  # nothing
    (3, CAT, (200, 0, 100, 100)),  # no query was left
    (4, CAT, (0, 0, 100, 100)),  # a crowd
    crowd=[False] * 6 + [True],
)
FOUND = results(
    (1, CAT, (0, 0, 100, 100), 0.9),  # true positive
    (1, CAT, (0, 0, 100, 90), 0.8),  # duplicate
    (1, DOG, (200, 0, 100, 95), 0.7),  # another class
    (2, DOG, (0, 0, 100, 40), 0.9),  # poor box
    (2, DOG, (200, 0, 100, 90), 0.2),  # below the threshold
    (3, DOG, (300, 300, 50, 50), 0.6),  # background
    (3, CAT, (0, 0, 100, 100), 0.01),  # a score too low to explain anything
    (4, CAT, (10, 10, 50, 50), 0.8),  # on the crowd: ignored
)
OUTCOMES = outcomes_of(TRUE, FOUND, 0.5, np.array([False] * 5 + [True, False]))


def test_every_kind_once() -> None:
    assert OUTCOMES.objects == 6
    assert OUTCOMES.found == 1
    assert OUTCOMES.found_by.tolist() == [0, -1, -1, -1, -1, -1, -1]
    assert OUTCOMES.missed.tolist() == ["", "other_class", "poor_box", "low_score", "nothing", "no_query", ""]
    assert OUTCOMES.closest.tolist() == [-1, 2, 3, 4, -1, -1, -1]
    assert OUTCOMES.wrong.tolist() == ["", "duplicate", "other_class", "poor_box", "", "background", "", ""]
    assert OUTCOMES.on.tolist() == [0, 0, 1, 2, -1, -1, -1, -1]
    assert OUTCOMES.missed_by_kind == dict.fromkeys(MISSED, 1)
    assert OUTCOMES.false_positives_by_kind == dict.fromkeys(FALSE_POSITIVES, 1)
    assert OUTCOMES.per_image.tolist() == [[2, 2, 2, 0], [1, 0, 0, 0], [2, 1, 1, 0]]
    assert OUTCOMES.image_scores.tolist() == pytest.approx([2 / 5, 0, 0, 1])


def test_without_errors_ap_is_1() -> None:
    """False positives removed, and a detection added for each missed object."""
    missed = np.flatnonzero(OUTCOMES.missed != "")
    added = Results(TRUE.of_image[missed], TRUE.of_category[missed], TRUE.boxes[missed], np.ones(len(missed)))
    fixed = join([FOUND.part(OUTCOMES.found_by[OUTCOMES.found_by >= 0]), added])
    assert score(TRUE, fixed).metrics["AP"] == 1 > 2 * score(TRUE, FOUND).metrics["AP"]
    outcomes = outcomes_of(TRUE, fixed, 0.5)
    assert (outcomes.found, outcomes.false_positives) == (outcomes.objects, 0)


def test_every_object_and_detection_is_counted_once() -> None:
    rng = np.random.default_rng(0)
    for seed in range(20):
        true, found = random_split(seed, images=8)
        threshold = float(rng.uniform(0, 0.9))
        outcomes = outcomes_of(true, found, threshold)
        detected = found.scores >= threshold
        assert outcomes.found + sum(outcomes.missed_by_kind.values()) == outcomes.objects == (~true.crowd).sum()
        assert outcomes.found + sum(outcomes.false_positives_by_kind.values()) == detected.sum()
        assert ((outcomes.wrong != "") <= detected).all()


@pytest.mark.parametrize(("classes", "kind"), [((DOG, CAT), "other_class"), ((CAT, DOG), "low_score")])
def test_the_highest_score_explains(classes: tuple[int, int], kind: str) -> None:
    found = results(*((1, category, (0, 0, 100, 100), s) for category, s in zip(classes, (0.4, 0.3), strict=True)))
    assert outcomes_of(truth((1, CAT, (0, 0, 100, 100))), found, 0.5).missed.tolist() == [kind]


def test_a_prediction_refers_to_the_object_that_it_overlaps_most() -> None:
    """A duplicate of a found object does not explain its missed neighbor."""
    true = truth((1, CAT, (0, 0, 100, 100)), (1, CAT, (80, 0, 100, 100)))
    found = results((1, CAT, (0, 0, 100, 100), 0.9), (1, CAT, (0, 0, 100, 98), 0.4))
    assert outcomes_of(true, found, 0.5).missed.tolist() == ["", "nothing"]


def test_empty_sets() -> None:
    nothing, empty = truth(), results()
    assert outcomes_of(nothing, FOUND, 0.5).false_positives_by_kind["background"] == 6
    assert outcomes_of(TRUE, empty, 0.5).missed_by_kind["nothing"] == 6
    assert interval_of_ap(nothing, FOUND) is None
    assert not curves_of(nothing, empty, 0.5).calibration
    assert np.nanmax(curves_of(TRUE, empty, 0.5).precision) == 0


def test_a_model_against_itself_with_noise_and_against_a_better_model() -> None:
    true, found = random_split(0)
    noisy = replace(found, scores=found.scores + np.random.default_rng(1).normal(0, 1e-3, len(found)))
    assert differences(true, found, noisy)["AP"].covers_zero
    _, sharp = random_split(0, off=0.02)
    gain = differences(true, found, sharp)["AP"]
    assert gain.low > 0
    assert gain.value == pytest.approx(score(true, sharp).metrics["AP"] - score(true, found).metrics["AP"])


@pytest.mark.parametrize("seed", range(3))
def test_values_are_those_of_the_evaluation(seed: int) -> None:
    """AP, by size and by class, with crowds and ties."""
    true, found = random_split(seed, images=30)
    true = changed(true, crowd=np.random.default_rng(seed).random(len(true.crowd)) < 0.1)
    found = replace(found, scores=found.scores.round(2))
    wanted = score(true, found)
    gains = differences(true, found.part(np.zeros(len(found), dtype=bool)), found)
    for name in ("AP", "AP50", "AP75", "APs", "APm"):
        assert gains[name].value == pytest.approx(wanted.metrics[name], abs=1e-9), name
    for of_class in wanted.per_class:
        assert gains[f"AP of {of_class.label}"].value == pytest.approx(of_class.AP, abs=1e-9)
    of_ap = interval_of_ap(true, found)
    assert of_ap == gains["AP"]
    assert of_ap.low < of_ap.value < of_ap.high


def test_an_image_drawn_twice_counts_twice() -> None:
    """As in a split that contains it twice."""
    true, found = random_split(0, images=6)
    draws = np.array([2, 0, 1, 1, 0, 3])
    objects, detections = [], []
    copies = np.repeat(np.arange(1, 7), draws).tolist()
    for number, image in enumerate(copies, 1):
        own, mine = np.flatnonzero(true.of_image == image), np.flatnonzero(found.image_ids == image)
        objects += [(number, true.of_category[i], tuple(true.boxes[i])) for i in own]
        detections += [(number, found.category_ids[i], tuple(found.boxes[i]), found.scores[i]) for i in mine]
    wanted = score(truth(*objects, images=len(copies)), results(*detections)).metrics["AP"]
    assert np.nanmean(comparison._class_aps(true, found, draws[None], "")) == pytest.approx(wanted)


@pytest.mark.slow
def test_intervals_cover_what_they_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """On 200 splits of one population, 91 to 98 % of the intervals contain the population's difference."""
    monkeypatch.setattr(comparison, "DRAWS", 250)
    splits = [(random_split(seed, 50, off=0.1), random_split(seed, 50, off=0.08)) for seed in range(200)]
    before, after = ([score(*pair[side]).metrics["AP"] for pair in splits] for side in (0, 1))
    wanted = float(np.mean(after) - np.mean(before))
    intervals = [differences(a[0], a[1], b[1])["AP"] for a, b in splits]
    assert 182 <= sum(interval.low <= wanted <= interval.high for interval in intervals) <= 196


def test_curves_by_hand() -> None:
    found = curves_of(TRUE, FOUND, 0.5)
    assert found.confused.tolist() == [[1, 1, 2], [0, 0, 2], [2, 2, 0]]
    # From 0.5 on there are 5 detections with 1 true positive, and 6 objects; from 0.9 on 2 detections.
    assert found.f1[SCORES == 0.5].tolist() == pytest.approx([2 / 11])
    assert found.f1[90] == pytest.approx(2 / 8)
    assert found.f1_by_class.shape == (2, 101)
    assert found.precision[0, :25].tolist() == pytest.approx([1.0] * 25)  # the first detection finds 1 of 4 cats
    # The next true positive follows a duplicate, at a score of 0.01.
    assert found.precision[0, 26:51].tolist() == pytest.approx([2 / 3] * 25)
    assert found.precision[0, 51:].max() == 0
    # Scores of 0.01, 0.2, 0.6 and 0.7 in tenths of their own, and two of 0.9; the detection on the crowd is ignored.
    assert [count for *_, count in found.calibration] == [1, 1, 1, 1, 1, 2]
    assert [share for _, share, _ in found.calibration] == [1, 1, 0, 0, 0, 0.5]
    error = (abs(0.01 - 1) + abs(0.2 - 1) + 0.6 + 0.7 + 0.8 + 2 * abs(0.9 - 0.5)) / 7
    assert found.calibration_error == pytest.approx(error)
