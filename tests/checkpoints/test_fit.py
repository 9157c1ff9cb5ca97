"""A class head and queries that fit only in part."""

import numpy as np
import torch
from small import TINY, small_weights

from detrcli.checkpoints.fit import fit
from detrcli.model.refinement import initial_reference_boxes
from detrcli.structures import Classes


def test_known_names_keep_their_rows() -> None:
    """Old: cat, dog, Żubr. New: DOG (by case), bear, cat; so Żubr goes and bear starts anew."""
    old = small_weights()
    fitted = fit(old, Classes(ids=np.array([5, 6, 9]), names=np.array([" DOG", "bear", "cat"])))
    assert fitted.kept == [" DOG", "cat"]
    assert fitted.fresh == ["bear"]
    assert fitted.dropped == ["Żubr"]
    assert fitted.queries == "all 9 queries kept"
    for part in ("weight", "bias"):
        before, after = old.tensors[f"class_head.{part}"], fitted.checkpoint.tensors[f"class_head.{part}"]
        assert torch.equal(after[0], before[1])
        assert torch.equal(after[2], before[0])
        assert torch.equal(after[3], before[3])
        assert not (after[1] == before).any()
    assert fitted.checkpoint.classes.ids.tolist() == [5, 6, 9]
    fitted.checkpoint.model()


def test_more_and_fewer_classes_build_a_model_that_fits() -> None:
    for count in (1, 8):
        classes = Classes(ids=np.arange(count), names=np.array([f"new {i}" for i in range(count)]))
        fitted = fit(small_weights(), classes)
        assert fitted.kept == []
        assert fitted.dropped == ["cat", "dog", "Żubr"]
        assert fitted.checkpoint.model().class_head.out_features == count + 1


def test_unused_rows_never_pair() -> None:
    old = small_weights()
    unused = Classes(ids=np.arange(3), names=np.array(["N/A", "dog", "N/A"]))
    fitted = fit(fit(old, unused).checkpoint, Classes(ids=np.arange(2), names=np.array(["N/A", "dog"])))
    assert fitted.kept == ["dog"]
    assert fitted.dropped == []


def test_queries_are_cut_and_grown() -> None:
    old = small_weights()
    before = old.tensors["queries.weight"]
    fewer, more = fit(old, old.classes, queries=4), fit(old, old.classes, queries=12)
    assert fewer.queries == "the first 4 of 9 queries kept"
    assert torch.equal(fewer.checkpoint.tensors["queries.weight"], before[:4])
    assert more.queries == "all 9 queries kept, 3 new ones added"
    grown = more.checkpoint.tensors["queries.weight"]
    assert torch.equal(grown[:9], before)
    assert 0.7 < grown[9:].std() < 1.3
    for fitted, count in ((fewer, 4), (more, 12)):
        assert len(fitted.checkpoint.model().queries.weight) == fitted.checkpoint.config.queries == count


def test_queries_of_tiny_are_cut_and_grown() -> None:
    """Content and reference of each; new references fall between the first ones of a new model."""
    old = small_weights(TINY)
    fewer, more = fit(old, old.classes, queries=4).checkpoint, fit(old, old.classes, queries=30).checkpoint
    for name in ("queries.contents", "queries.references"):
        before = old.tensors[name]
        assert torch.equal(fewer.tensors[name], before[:4])
        assert torch.equal(more.tensors[name][: len(before)], before)
    assert torch.equal(more.tensors["queries.references"][9:], initial_reference_boxes(30)[9:])
    assert 0.8 < more.tensors["queries.contents"][9:].std() < 1.2
    for fitted, count in ((fewer, 4), (more, 30)):
        assert len(fitted.model().queries.references) == fitted.config.queries == count


def test_classes_of_tiny() -> None:
    old = small_weights(TINY)
    fitted = fit(old, Classes(ids=np.arange(2), names=np.array(["bear", "dog"])))
    assert (fitted.kept, fitted.fresh, fitted.dropped) == (["dog"], ["bear"], ["cat", "Żubr"])
    assert torch.equal(fitted.checkpoint.tensors["class_head.bias"][1:], old.tensors["class_head.bias"][[1, 3]])
    assert fitted.checkpoint.model().class_head.out_features == 3


def test_what_was_given_stays_as_it_was() -> None:
    old = small_weights()
    copies = {name: tensor.clone() for name, tensor in old.tensors.items()}
    fit(old, Classes(ids=np.arange(2), names=np.array(["a", "b"])), queries=20)
    assert all(torch.equal(copies[name], tensor) for name, tensor in old.tensors.items())
