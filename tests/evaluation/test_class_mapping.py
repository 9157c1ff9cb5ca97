"""Mapping of classes: by name, else by id, and the classes without a counterpart."""

import numpy as np
import pytest

from detrcli.checkpoints.coco import NAMES
from detrcli.errors import DataError
from detrcli.evaluation.class_mapping import UNKNOWN_CLASS, map_classes
from detrcli.structures import Classes


def classes(named: dict[int, str]) -> Classes:
    return Classes(ids=np.array(list(named), dtype=np.int64), names=np.array(list(named.values())))


def test_by_name_across_ids() -> None:
    """Case and surrounding space do not matter, nor do ids, even if they match another class."""
    mapping = map_classes(classes({1: "Dog", 2: "cat", 3: "bus"}), classes({2: " dog ", 1: "CAT", 9: "tree"}))
    assert mapping.by == "name"
    assert mapping.classes.ids.tolist() == [2, 1, UNKNOWN_CLASS]
    assert mapping.classes.names.tolist() == ["Dog", "cat", "bus"]
    assert list(mapping.only_weights) == ["bus"]
    assert list(mapping.only_data) == ["tree"]


def test_by_id_where_no_name_matches() -> None:
    model, data = classes({1: "a", 2: "b", 3: "N/A"}), classes({2: "zwei", 3: "drei"})
    mapping = map_classes(model, data, match_classes_by_id=True)
    assert mapping.by == "id"
    assert mapping.classes.ids.tolist() == [UNKNOWN_CLASS, 2, UNKNOWN_CLASS]
    assert list(mapping.only_weights) == ["a"]
    assert list(mapping.only_data) == ["drei"]
    assert list(mapping.pairs) == [("b", "zwei")]
    with pytest.raises(DataError, match=r"(?s)a, b.*zwei, drei.*match.classes.by.id"):
        map_classes(model, data)
    with pytest.raises(DataError, match=r"(?s)a, b.*c\."):
        map_classes(classes({1: "a", 2: "b"}), classes({3: "c"}), match_classes_by_id=True)


def test_repeated_names() -> None:
    """A name that the data has twice maps to the class of its id, else of the lowest id."""
    data = classes({4: "cat", 2: "cat", 7: "dog"})
    assert map_classes(classes({4: "cat"}), data).classes.ids.tolist() == [4]
    assert map_classes(classes({9: "cat"}), data).classes.ids.tolist() == [2]
    assert list(map_classes(classes({9: "cat"}), data).only_data) == ["cat", "dog"]
    assert map_classes(classes({0: "dog", 1: "Dog"}), data).classes.ids.tolist() == [7, 7]


def test_unused_classes_of_the_published_weights_map_to_nothing() -> None:
    mapping = map_classes(classes(dict(enumerate(NAMES))), classes({12: "N/A", 100: "person"}))
    assert [i for i in mapping.classes.ids.tolist() if i != UNKNOWN_CLASS] == [100]
    assert len(mapping.only_weights) == 79
