"""Checkpoints in memory, and fitting their class head and queries to other numbers."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small import CONFIG, DEFORMABLE, DINO_CONFIG, TINY, TWO_STAGE, masked_weights, small_weights
from torch import nn

from detrcli.architectures import preset
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.fit import fit
from detrcli.config import Preprocessing
from detrcli.errors import UsageError, WeightsError
from detrcli.inference.detector import Detector
from detrcli.model.refinement import initial_reference_boxes
from detrcli.resize import MAX_INPUT_PIXELS, ExactSize, ShortestEdge
from detrcli.structures import Batch, Classes, Target


def classes(*names: str) -> Classes:
    return Classes(ids=np.arange(len(names)), names=np.array(names))


def of_preset(name: str) -> Checkpoint:
    architecture, config = preset(name)
    return small_weights(replace(config, classes=3), architecture)


def test_known_classes_keep_their_rows() -> None:
    """Old: cat, dog, Żubr. New: DOG (in capitals), bear, cat. So Żubr goes and bear is new."""
    old = small_weights()
    fitted = fit(old, Classes(ids=np.array([5, 6, 9]), names=np.array([" DOG", "bear", "cat"])))
    assert (fitted.kept, fitted.fresh, fitted.dropped) == ([" DOG", "cat"], ["bear"], ["Żubr"])
    assert fitted.queries == "all 9 queries kept"
    for part in ("weight", "bias"):
        before, after = old.tensors[f"class_head.{part}"], fitted.checkpoint.tensors[f"class_head.{part}"]
        assert torch.equal(after[[0, 2, 3]], before[[1, 0, 3]])
        assert not (after[1] == before).any()
    assert fitted.checkpoint.classes.ids.tolist() == [5, 6, 9]
    fitted.checkpoint.model()


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("config", [CONFIG, TINY], ids=["detr", "tiny"])
def test_more_and_fewer_classes(config: Any, count: int) -> None:
    old = small_weights(config)
    fitted = fit(old, classes("dog", *(f"new {i}" for i in range(1, count))))
    assert (fitted.kept, fitted.dropped) == (["dog"], ["cat", "Żubr"])
    bias = fitted.checkpoint.tensors["class_head.bias"]
    assert torch.equal(bias[[0, count]], old.tensors["class_head.bias"][[1, 3]])
    assert fitted.checkpoint.model().class_head.out_features == count + 1


def test_unused_rows_are_never_matched() -> None:
    fitted = fit(fit(small_weights(), classes("N/A", "dog", "N/A")).checkpoint, classes("N/A", "dog"))
    assert (fitted.kept, fitted.dropped) == (["dog"], [])


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: small_weights(CONFIG), ["queries.weight"]),
        (lambda: small_weights(TINY), ["queries.contents", "queries.references"]),
        (lambda: small_weights(DEFORMABLE), ["queries.embedding.weight"]),
        (lambda: small_weights(TWO_STAGE), []),
        (lambda: small_weights(DINO_CONFIG), ["selection.contents"]),
        (lambda: masked_weights(), ["detector.queries.weight"]),
    ],
    ids=["detr", "tiny", "deformable", "two stages", "dino", "masks"],
)
def test_more_and_fewer_queries(make: Callable[[], Checkpoint], names: list[str]) -> None:
    checkpoint = make()
    fewer = fit(checkpoint, checkpoint.classes, queries=4)
    more = fit(checkpoint, checkpoint.classes, queries=120)
    assert fewer.queries == "the first 4 of 9 queries kept"
    assert more.queries == "all 9 queries kept, 111 new queries added"
    tensors = checkpoint.tensors
    assert [name for name, new in more.checkpoint.tensors.items() if not torch.equal(new, tensors[name])] == names
    for name in names:
        before, grown = tensors[name], more.checkpoint.tensors[name]
        assert torch.equal(fewer.checkpoint.tensors[name], before[:4])
        assert torch.equal(grown[:9], before)
        if name == "queries.references":
            assert torch.equal(grown[9:], initial_reference_boxes(120)[9:])
        else:
            assert 0.9 < grown[9:].std() < 1.1
    for fitted, count in ((fewer, 4), (more, 120)):
        assert fitted.checkpoint.config.queries == count
        fitted.checkpoint.model()


@pytest.mark.parametrize(
    ("make", "biases"),
    [
        (lambda: small_weights(DEFORMABLE), {"class_heads.0.bias": 0.01}),
        (lambda: small_weights(TWO_STAGE), {"class_heads.0.bias": 0.01, "class_heads.1.bias": 0.01}),
        (lambda: small_weights(DINO_CONFIG), {"class_head.bias": 0.01, "selection.proposer.class_head.bias": 0.01}),
        (lambda: of_preset("dino-tiny"), {"class_head.bias": 0.0293, "selection.proposer.class_head.bias": 0.0293}),
        (lambda: of_preset("deformable-tiny-masks"), {f"detector.class_heads.{i}.bias": 0.01 for i in range(2)}),
    ],
    ids=["deformable", "two stages", "dino", "dino-tiny", "masks"],
)
def test_all_class_heads_are_fitted(make: Callable[[], Checkpoint], biases: dict[str, float]) -> None:
    """New classes start with the probability of a new model, and a new weight."""
    checkpoint = make()
    fitted = fit(checkpoint, classes("a", "b", "c", "d")).checkpoint
    for name, probability in biases.items():
        expected = math.log(probability / (1 - probability))
        torch.testing.assert_close(fitted.tensors[name], torch.full((4,), expected), atol=1e-2, rtol=0)
        weight = fitted.tensors[name.replace("bias", "weight")]
        assert weight.shape[0] == 4
        assert 0 < weight.abs().max() <= weight.shape[1] ** -0.5  # as torch initializes a linear layer
    labels = [tensor for name, tensor in fitted.tensors.items() if "label_contents" in name]
    assert all(len(tensor) == 5 for tensor in labels)
    assert len(labels) == ("denoising" in str(checkpoint.config) and checkpoint.config.denoising > 0)
    fitted.model()


def test_only_new_rows_are_drawn() -> None:
    """A seed determines new rows, whatever the rest of the model draws when it is built."""
    for count, make in (
        ("classes", lambda: dict(nn.Linear(CONFIG.dim, CONFIG.classes + 1).named_parameters("class_head"))),
        ("queries", lambda: {"queries.weight": torch.randn(CONFIG.queries, CONFIG.dim)}),
    ):
        torch.manual_seed(7)
        rows = small_weights().architecture.fresh_rows(CONFIG, count)
        torch.manual_seed(7)
        expected = make()
        assert rows.keys() == expected.keys()
        assert all(torch.equal(rows[name].tensor, tensor) for name, tensor in expected.items())


def test_a_number_that_cannot_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor that grows by more than a row."""
    checkpoint = small_weights(TINY)
    build = type(checkpoint.architecture).build

    def squared(self: Any, config: Any) -> nn.Module:
        model = build(self, config)
        model.table = nn.Parameter(torch.zeros(config.queries**2))
        return model

    monkeypatch.setattr(type(checkpoint.architecture), "build", squared)
    with pytest.raises(UsageError, match=r"number of queries cannot be changed \(table\)"):
        checkpoint.architecture.fresh_rows(TINY, "queries")


def test_the_fitted_checkpoint_is_not_modified() -> None:
    old = small_weights()
    copies = {name: tensor.clone() for name, tensor in old.tensors.items()}
    fit(old, classes("a", "b"), queries=20)
    assert all(torch.equal(copies[name], tensor) for name, tensor in old.tensors.items())


def test_training_a_model_changes_nothing_else() -> None:
    """Neither the checkpoint nor another model of it, nor the statistics of batch norm in it."""
    checkpoint = small_weights(TINY)
    before = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
    trained, other = checkpoint.model(), checkpoint.model()
    trained.train()
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    targets = [Target(torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.2, 0.2]]))] * 2
    output = trained(Batch(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), None))
    checkpoint.make_loss().compute_loss(output, targets).total.backward()
    optimizer.step()

    after = trained.state_dict()
    assert not torch.equal(after["class_head.bias"], before["class_head.bias"])
    assert not torch.equal(after["backbone.norm.running_mean"], before["backbone.norm.running_mean"])
    for tensors in (checkpoint.tensors, other.state_dict()):
        torch.testing.assert_close(tensors, before, rtol=0, atol=0)


def test_another_size() -> None:
    checkpoint = small_weights(TINY)
    assert checkpoint.resized(96, 128).preprocessing.resize == ShortestEdge(96, 128)
    assert checkpoint.resized() == checkpoint
    assert not checkpoint.model().training


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite(value: float) -> None:
    checkpoint = small_weights(TINY)
    bias = checkpoint.tensors["class_head.bias"].clone()
    bias[1] = value
    with pytest.raises(WeightsError, match=r"1 tensors .*class_head\.bias"):
        replace(checkpoint, tensors={**checkpoint.tensors, "class_head.bias": bias}).model()
    bias[:] = torch.finfo(torch.float32).max  # finite, but not their sum
    replace(checkpoint, tensors={**checkpoint.tensors, "class_head.bias": bias}).model()


def test_large_inputs_are_refused_before_they_are_allocated() -> None:
    for rule in (ShortestEdge(30_000, 32_000), ShortestEdge(800, 1333, divisor=30_000), ExactSize(32_768, 32_768)):
        with pytest.raises(UsageError, match=r"33,554,432"):
            Preprocessing(rule)
    largest = Preprocessing(ShortestEdge(4096, 8192))
    assert largest.resize.place(5, 10).height * largest.resize.place(5, 10).width == MAX_INPUT_PIXELS
    with pytest.raises(UsageError, match="33,554,432"):
        Preprocessing(ShortestEdge(5000, 32_768)).resize.place(10, 60)
    # It ends the command instead of skipping the image: other images of its shape would be too large as well.
    detector = Detector(small_weights(TINY).resized(5000, 32_768), "cpu")
    with pytest.raises(UsageError, match="33,554,432"):
        detector.predict(Image.new("RGB", (60, 10)))
