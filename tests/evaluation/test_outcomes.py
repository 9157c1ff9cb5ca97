"""What becomes of objects and detections, on sets worked by hand; intervals, on cases drawn many times."""

from dataclasses import replace

import numpy as np
import pytest
from split import CAT, DOG, results, truth

from detrcli.evaluation import interval
from detrcli.evaluation.curves import SCORES, curves_of
from detrcli.evaluation.interval import differences, interval_of_ap
from detrcli.evaluation.metrics import score
from detrcli.evaluation.outcomes import FALSE_ALARMS, MISSED, Outcomes, outcomes_of
from detrcli.evaluation.results import Results, join
from detrcli.evaluation.truth import Truth

# Objects, in pictures 1 to 4: what becomes of each stands beside it.
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
    (1, CAT, (0, 0, 100, 100), 0.9),  # right
    (1, CAT, (0, 0, 100, 90), 0.8),  # a duplicate
    (1, DOG, (200, 0, 100, 95), 0.7),  # another class
    (2, DOG, (0, 0, 100, 40), 0.9),  # a poor box
    (2, DOG, (200, 0, 100, 90), 0.2),  # below the threshold
    (3, DOG, (300, 300, 50, 50), 0.6),  # background
    (3, CAT, (0, 0, 100, 100), 0.01),  # so unsure that it says nothing
    (4, CAT, (10, 10, 50, 50), 0.8),  # on the crowd: neither right nor wrong
)
NO_QUERY = np.array([False] * 5 + [True, False])


def outcomes() -> Outcomes:
    return outcomes_of(TRUE, FOUND, 0.5, NO_QUERY)


def test_every_kind_once() -> None:
    found = outcomes()
    assert found.objects == 6
    assert found.found == 1
    assert found.found_by.tolist() == [0, -1, -1, -1, -1, -1, -1]
    assert found.missed.tolist() == ["", "other_class", "poor_box", "low_score", "nothing", "no_query", ""]
    assert found.closest.tolist() == [-1, 2, 3, 4, -1, -1, -1]
    assert found.wrong.tolist() == ["", "duplicate", "other_class", "poor_box", "", "background", "", ""]
    assert found.on.tolist() == [0, 0, 1, 2, -1, -1, -1, -1]
    assert found.missed_by_kind == dict.fromkeys(MISSED, 1)
    assert found.false_alarms_by_kind == dict.fromkeys(FALSE_ALARMS, 1)


def test_what_is_mended_is_perfect() -> None:
    """Each false alarm goes, each missed object gets the detection that it lacks: AP is 1 then, and was not."""
    found = outcomes()
    kept = FOUND.part(found.found_by[found.found_by >= 0])
    lacking = np.flatnonzero(found.missed != "")
    added = Results(TRUE.of_image[lacking], TRUE.of_category[lacking], TRUE.boxes[lacking], np.ones(len(lacking)))
    assert score(TRUE, join([kept, added])).metrics["AP"] == 1
    assert score(TRUE, FOUND).metrics["AP"] < 0.5
    fixed = outcomes_of(TRUE, join([kept, added]), 0.5)
    assert fixed.found == fixed.objects
    assert not (fixed.wrong != "").any()


def test_all_are_counted_once() -> None:
    """Found and missed are all objects; right, wrong and on crowds are all detections."""
    rng = np.random.default_rng(0)
    for seed in range(20):
        true, found = random_split(seed, images=8)
        threshold = float(rng.uniform(0, 0.9))
        got = outcomes_of(true, found, threshold)
        assert got.found + sum(got.missed_by_kind.values()) == got.objects == (~true.crowd).sum()
        sure = (found.scores >= threshold).sum()
        assert got.found + sum(got.false_alarms_by_kind.values()) == sure  # there are no crowds
        assert ((got.wrong != "") <= (found.scores >= threshold)).all()


def test_the_surest_prediction_says_why() -> None:
    true = truth((1, CAT, (0, 0, 100, 100)))
    for sure, unsure, why in (("DOG", "CAT", "other_class"), ("CAT", "DOG", "low_score")):
        found = results(
            (1, DOG if sure == "DOG" else CAT, (0, 0, 100, 100), 0.4),
            (1, DOG if unsure == "DOG" else CAT, (0, 0, 100, 100), 0.3),
        )
        assert outcomes_of(true, found, 0.5).missed.tolist() == [why]


def test_a_prediction_speaks_of_the_object_that_it_overlaps_most() -> None:
    """What is left over beside an object that is found does not explain its neighbour."""
    true = truth((1, CAT, (0, 0, 100, 100)), (1, CAT, (80, 0, 100, 100)))
    found = results((1, CAT, (0, 0, 100, 100), 0.9), (1, CAT, (0, 0, 100, 98), 0.4))
    assert outcomes_of(true, found, 0.5).missed.tolist() == ["", "nothing"]


def test_empty_sets() -> None:
    nothing, empty = truth(), results()
    assert outcomes_of(nothing, FOUND, 0.5).false_alarms_by_kind["background"] == 6
    assert outcomes_of(TRUE, empty, 0.5).missed_by_kind["nothing"] == 6
    assert interval_of_ap(nothing, FOUND) is None
    assert not curves_of(nothing, empty, 0.5).calibration
    assert np.nanmax(curves_of(TRUE, empty, 0.5).precision) == 0


def random_split(seed: int, images: int = 60, sure: float = 0.8, off: float = 0.1) -> tuple[Truth, Results]:
    """Objects, each with a detection that is more or less right, and some that lie on nothing."""
    rng = np.random.default_rng(seed)
    objects, found = [], []
    for image in range(1, images + 1):
        for _ in range(rng.integers(1, 6)):
            box = np.concatenate([rng.uniform(0, 200, 2), rng.uniform(20, 80, 2)])
            category = int(rng.choice([CAT, DOG]))
            objects.append((image, category, tuple(box)))
            if rng.random() < sure:
                moved = box + off * rng.normal(size=4) * box[[2, 3, 2, 3]]
                found.append((image, category, tuple(moved), float(rng.beta(4, 2))))
            if rng.random() < 0.3:
                found.append((image, category, (400.0, 400.0, 30.0, 30.0), float(rng.beta(2, 4))))
    return truth(*objects, images=images), results(*found)


def test_a_model_beside_itself_with_noise_and_beside_a_better_one() -> None:
    true, found = random_split(0)
    rng = np.random.default_rng(1)
    noisy = Results(found.image_ids, found.category_ids, found.boxes, found.scores + rng.normal(0, 1e-3, len(found)))
    assert differences(true, found, noisy)["AP"].covers_zero
    _, sharp = random_split(0, off=0.02)
    gain = differences(true, found, sharp)["AP"]
    assert gain.low > 0
    assert gain.value == pytest.approx(score(true, sharp).metrics["AP"] - score(true, found).metrics["AP"])


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_the_evaluation(seed: int) -> None:
    """AP, those by size and by class are what hotcoco gives, crowds, ties and all."""
    true, found = random_split(seed, images=30)
    rng = np.random.default_rng(seed)
    true = replace(true, crowd=rng.random(len(true.crowd)) < 0.1)
    found = replace(found, scores=found.scores.round(2))
    wanted = score(true, found)
    nothing = found.part(np.zeros(len(found), dtype=bool))
    got = differences(true, nothing, found)
    for name in ("AP", "AP50", "AP75", "APs", "APm"):
        assert got[name].value == pytest.approx(wanted.metrics[name], abs=1e-9), name
    for one in wanted.per_class:
        assert got[f"AP of {one.label}"].value == pytest.approx(one.AP, abs=1e-9)
    of_ap = interval_of_ap(true, found)
    assert of_ap == got["AP"]
    assert of_ap.low < of_ap.value < of_ap.high


def test_an_image_drawn_twice_counts_twice() -> None:
    """As in a split that has it twice."""
    true, found = random_split(0, images=6)
    twice = np.array([2, 0, 1, 1, 0, 3])
    boxes = [interval._by_class(true, found, twice[None], "")]
    copies = [(image, copy) for image, count in enumerate(twice, 1) for copy in range(count)]
    objects, detections = [], []
    for number, (image, _) in enumerate(copies, 1):
        own = true.of_image == image
        objects += [(number, int(c), tuple(b)) for c, b in zip(true.of_category[own], true.boxes[own], strict=True)]
        mine = found.image_ids == image
        detections += [
            (number, int(c), tuple(b), float(s))
            for c, b, s in zip(found.category_ids[mine], found.boxes[mine], found.scores[mine], strict=True)
        ]
    wanted = score(truth(*objects, images=len(copies)), results(*detections)).metrics["AP"]
    assert np.nanmean(boxes[0]) == pytest.approx(wanted)


@pytest.mark.slow
def test_intervals_cover_what_they_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models over 200 splits drawn from one population: the difference of all of it lies in 91 to 98 of 100."""
    monkeypatch.setattr(interval, "DRAWS", 250)
    splits = [(random_split(seed, 50, off=0.1), random_split(seed, 50, off=0.08)) for seed in range(200)]
    wholes = [[score(*pair[side]).metrics["AP"] for pair in splits] for side in (0, 1)]
    wanted = float(np.mean(wholes[1]) - np.mean(wholes[0]))
    covered = sum((one := differences(a[0], a[1], b[1])["AP"]).low <= wanted <= one.high for a, b in splits)
    assert 182 <= covered <= 196, covered


def test_curves_by_hand() -> None:
    found = curves_of(TRUE, FOUND, 0.5)
    assert found.confused.tolist() == [[1, 1, 2], [0, 0, 2], [2, 2, 0]]
    # From 0.5 on 5 detections count, of which 1 is right, for 6 objects; from 0.9 on 2.
    assert found.f1[SCORES == 0.5].tolist() == pytest.approx([2 / 11])
    assert found.f1[90] == pytest.approx(2 / 8)
    assert found.f1_by_class.shape == (2, 101)
    assert found.precision[0, :25].tolist() == pytest.approx([1.0] * 25)  # of 4 cats one is found, at once
    # The next right one comes after a duplicate, at a score of 0.01.
    assert found.precision[0, 26:51].tolist() == pytest.approx([2 / 3] * 25)
    assert found.precision[0, 51:].max() == 0
    low = found.calibration[0]
    assert (low.count, low.right) == (1, 1.0)  # the cat of 0.01 that finds its object
    total = sum(one.count for one in found.calibration)
    assert found.calibration_error == pytest.approx(
        sum(one.count * abs(one.score - one.right) for one in found.calibration) / total
    )
