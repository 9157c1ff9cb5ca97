"""Classes of weights and data: by name, else by id, and what finds no partner."""

import numpy as np
import pytest

from detrcli.checkpoints.coco import NAMES
from detrcli.errors import DataError
from detrcli.evaluation.class_mapping import UNKNOWN_CLASS, map_classes
from detrcli.structures import Classes


def classes(named: dict[int, str]) -> Classes:
    return Classes(ids=np.array(list(named), dtype=np.int64), names=np.array(list(named.values())))


def test_by_name_across_ids() -> None:
    """Case and surrounding space do not matter; ids do not, even where they fit another class."""
    pairing = map_classes(classes({1: "Dog", 2: "cat", 3: "bus"}), classes({2: " dog ", 1: "CAT", 9: "tree"}))
    assert pairing.by == "name"
    assert pairing.classes.ids.tolist() == [2, 1, UNKNOWN_CLASS]
    assert pairing.classes.names.tolist() == ["Dog", "cat", "bus"]
    assert list(pairing.only_weights) == ["bus"]
    assert list(pairing.only_data) == ["tree"]


def test_by_id_where_no_name_matches() -> None:
    pairing = map_classes(
        classes({1: "a", 2: "b", 3: "N/A"}), classes({2: "zwei", 3: "drei"}), match_classes_by_id=True
    )
    assert pairing.by == "id"
    assert pairing.classes.ids.tolist() == [UNKNOWN_CLASS, 2, UNKNOWN_CLASS]
    assert list(pairing.only_weights) == ["a"]
    assert list(pairing.only_data) == ["drei"]
    assert list(pairing.pairs) == [("b", "zwei")]
    with pytest.raises(DataError, match=r"Weights: a, b. Data: zwei, drei.\nWhere equal ids .* --match-classes-by-id"):
        map_classes(classes({1: "a", 2: "b", 3: "N/A"}), classes({2: "zwei", 3: "drei"}))


def test_a_name_that_stands_twice() -> None:
    """In the data it goes to the entry of its id, else to the lowest; in the weights both go to the same entry."""
    data = classes({4: "cat", 2: "cat", 7: "dog"})
    assert map_classes(classes({4: "cat"}), data).classes.ids.tolist() == [4]
    assert map_classes(classes({9: "cat"}), data).classes.ids.tolist() == [2]
    assert list(map_classes(classes({9: "cat"}), data).only_data) == ["cat", "dog"]
    assert map_classes(classes({0: "dog", 1: "Dog"}), data).classes.ids.tolist() == [7, 7]


def test_nothing_in_common() -> None:
    with pytest.raises(DataError, match=r"neither by name nor by id.\nWeights: a, b. Data: c."):
        map_classes(classes({1: "a", 2: "b"}), classes({3: "c"}), match_classes_by_id=True)


def test_gaps_of_the_published_weights_pair_with_nothing() -> None:
    published = classes(dict(enumerate(NAMES)))
    pairing = map_classes(published, classes({12: "N/A", 100: "person"}))
    assert [i for i in pairing.classes.ids.tolist() if i != UNKNOWN_CLASS] == [100]
    assert len(pairing.only_weights) == 79
