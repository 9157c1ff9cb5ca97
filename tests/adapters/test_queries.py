"""Another number of object queries: kept rows are equal bit for bit, and transformers loads the trained model."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import CLASSES, changed, folder_of
from here import Detr
from originals import MODELS, original_names, randomize
from transformers import AutoConfig, AutoModelForObjectDetection

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.fit import fit
from detrcli.checkpoints.load import load_checkpoint
from detrcli.errors import WeightsError
from detrcli.structures import Batch, Classes

QUICK = ("--epochs", 1, "--batch-size", 4, "--set", "workers=0", "--no-report")
GROUPS = 3  # of queries, in LW-DETR and RF-DETR
# Tensors with rows of queries, by family: their axis, groups, and rows of other things before them.
ROWS: dict[str, dict[str, tuple[int, int, int]]] = {
    "deformable": {"model.query_position_embeddings.weight": (0, 1, 0)},
    "deformable-two-stage": {},
    "conditional": {"model.query_position_embeddings.weight": (0, 1, 0)},
    "dab": {"model.query_refpoint_embeddings.weight": (0, 1, 0)},
    "rt": {},
    "d-fine": {},
    "lw": {"model.reference_point_embed.weight": (0, GROUPS, 0), "model.query_feat.weight": (0, GROUPS, 0)},
    "rf": {"model.reference_point_embed.weight": (0, GROUPS, 0), "model.query_feat.weight": (0, GROUPS, 0)},
    "yolos": {
        "vit.embeddings.detection_tokens": (1, 1, 0),
        "vit.embeddings.position_embeddings": (1, 1, 65),
        "vit.encoder.interpolation.mid_position_embeddings": (2, 1, 65),
    },
}
SAME = Classes.of(range(len(CLASSES)), list(CLASSES.values()))


def slow_but(*quick: str, names: Iterable[str]) -> list[Any]:
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def with_queries(name: str, queries: int) -> tuple[Checkpoint, Checkpoint]:
    torch.manual_seed(3)
    before = load_checkpoint(str(folder_of(name)))
    return before, fit(before, SAME, queries).checkpoint


@pytest.mark.parametrize("name", slow_but("rf", "yolos", names=ROWS))
@pytest.mark.parametrize("queries", [7, 31])
def test_rows(name: str, queries: int) -> None:
    before, after = with_queries(name, queries)
    common = min(20, queries)
    for key, tensor in after.tensors.items():
        old = before.tensors[key]
        place = ROWS[name].get(key.removeprefix("network."))
        if place is None:
            assert torch.equal(tensor, old), key
            continue
        axis, groups, first = place
        rows, old_rows = tensor.movedim(axis, 0), old.movedim(axis, 0)
        assert (len(rows), len(old_rows)) == (first + groups * queries, first + groups * 20)
        assert torch.equal(rows[:first], old_rows[:first])
        for group in range(groups):
            start, old_start = first + group * queries, first + group * 20
            assert torch.equal(rows[start : start + common], old_rows[old_start : old_start + common])
            for row in range(start + common, start + queries):  # new
                assert rows[row].isfinite().all()
                assert not any(torch.equal(rows[row], other) for other in rows[first:row])
                assert ((rows[row] - old_rows[first:].mean(0)).abs() <= 6 * old_rows[first:].std(0) + 1e-6).all()


@pytest.mark.parametrize("name", slow_but("yolos", names=["lw", "rf", "yolos", "rt", "conditional"]))
def test_kept_queries_predict_the_same(name: str) -> None:
    """In eval mode, where a query attends to the others: with fewer queries, as in a model of the kept rows alone."""
    before, after = with_queries(name, 31)
    batch = Batch(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)), None)
    with torch.no_grad():
        assert after.model()(batch).last.logits.shape[1] == 31
        again = fit(after, SAME, 20).checkpoint
        first, second = (checkpoint.model()(batch).last for checkpoint in (before, again))
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.boxes, second.boxes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("queries", [7, 31])
def test_training(name: str, queries: int, data: Path, detr: Detr) -> None:
    more = ("--set", f"queries={queries}")
    shown = detr("train", data, "--weights", folder_of(name), "--out", "run", *QUICK, *more).ok()
    assert f"{queries - 20} new queries" in shown.err or f"first {queries} of 20" in shown.err
    network: Any = AutoModelForObjectDetection.from_pretrained("run/last").eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, 64, 64)).logits.shape[1] == queries
    assert load_checkpoint("run").config.queries == queries


def test_detections() -> None:
    """As many as published, unless the user has changed the queries to more."""
    for name, num_select, expected in (
        ("lw", None, (100, 100, 300)),
        ("rf", 50, (50, 50, 300)),
        ("rt", None, (20, 31, 300)),
    ):
        config: Any = load_checkpoint(str(folder_of(name))).config
        facts = {**json.loads(config.facts), "num_select": num_select}
        config = replace(config, facts=json.dumps(facts))
        assert tuple(replace(config, queries=queries).selected for queries in (20, 31, 300)) == expected


def test_more_queries_than_tokens(data: Path, detr: Detr, tmp_path: Path) -> None:
    """RF-DETR selects its queries from 8 x 8 patches here."""
    command = ("train", data, "--weights", folder_of("rf"), *QUICK, "--dry-run")
    detr(*command, "--set", "queries=65").fails(2, "--set queries=64", "64 x 64")
    detr(*command, "--set", "queries=64").ok()
    detr(*command, "--set", "queries=65", "--size", 80).ok()
    detr("predict", data / "val", "--weights", folder_of("rf"), "--size", 32).fails(2, "--size 32", "16 tokens")
    small = changed(folder_of("rf"), tmp_path / "small", "preprocessor_config.json", size={"height": 32, "width": 32})
    with pytest.raises(WeightsError, match="32 x 32 pixels, which gives 16 tokens for 20 queries"):
        load_checkpoint(small)


def test_crowded_images(data: Path, detr: Detr) -> None:
    """They are reported before the training, with the number of queries to use."""
    command = ("train", data, "--weights", folder_of("yolos"), *QUICK, "--dry-run")
    shown = detr(*command, "--set", "queries=2").ok()
    assert "more objects than the model has queries (3 > 2)" in shown.err
    assert "--set queries=3" in shown.err
    assert "more objects" not in detr(*command, "--set", "queries=3").ok().err


@pytest.mark.slow
def test_a_checkpoint_file_of_its_repository(tmp_path: Path) -> None:
    model_type, facts, rules = MODELS["LWDETR_tiny.pth"]
    config = AutoConfig.for_model(model_type, **facts)
    network = randomize(AutoModelForObjectDetection.from_config(config))
    torch.save({"model": original_names(network, rules)}, tmp_path / "LWDETR_tiny.pth")
    before = load_checkpoint(str(tmp_path / "LWDETR_tiny.pth"))
    after = fit(before, before.classes, 900).checkpoint
    old, new = (checkpoint.tensors["network.model.query_feat.weight"] for checkpoint in (before, after))
    groups, queries = config.group_detr, before.config.queries
    assert len(new) == 900 * groups
    for group in range(groups):
        kept = new[900 * group : 900 * group + queries]
        assert torch.equal(kept, old[queries * group : queries * (group + 1)])
    with torch.no_grad():
        assert after.model()(Batch(torch.rand(1, 3, 640, 640), None)).last.logits.shape[1] == 900
