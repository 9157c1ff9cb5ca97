"""The matching history of a run: the same images each time, an entry per evaluation, none twice."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from trainings import CPU, Recorder, data_of, finished, new, resume, shapes_fixture, stopped

from detrcli.architectures import preset
from detrcli.data.annotations import annotate
from detrcli.data.make import make_shapes
from detrcli.errors import DataError
from detrcli.inference.detector import Detector
from detrcli.inspection.matching import UNMATCHED
from detrcli.structures import Batch
from detrcli.training import matching_history
from detrcli.training.interrupts import Interrupts
from detrcli.training.loop import Training
from detrcli.training.matching_history import FILE, Matchings, append, known_by_tokens, read
from detrcli.training.setup import Data

pytestmark = pytest.mark.usefixtures("one_thread")
data = shapes_fixture(images=20, objects=3)


@pytest.fixture(autouse=True)
def enough_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """All images are matched, however slow the machine is."""
    monkeypatch.setattr(matching_history, "SECONDS", 1e9)


def arrays(run: Path) -> list[list]:
    kept = read(run)
    return [kept.image_ids.tolist(), kept.counts.tolist(), kept.epochs.tolist(), kept.queries.tolist()]


def append_for(training: Training, run: Path, epoch: int) -> None:
    detector = Detector(training.initial.checkpoint, CPU, model=training.model.eval())
    data = training.data
    append(run, epoch, detector, annotate(data.val, data.classes), training.loss.matcher)


@pytest.mark.slow
def test_stopped_and_resumed_equals_never_stopped(data: Data, tmp_path: Path) -> None:
    finished(new(data, tmp_path / "whole"))
    whole = arrays(tmp_path / "whole")
    assert whole[2] == [1, 2, 3]
    for name, place in (("step", {"step": 12}), ("evaluation", {"image": 2})):
        stopped(data, tmp_path / name, **place)
        finished(resume(data, tmp_path / name))
        assert arrays(tmp_path / name) == whole


@pytest.mark.slow
def test_a_repeated_evaluation_counts_once(data: Data, tmp_path: Path) -> None:
    """As after a kill between the evaluation and the next state."""
    training = finished(new(data, tmp_path))
    whole = arrays(tmp_path)
    append_for(training, tmp_path, 3)
    assert arrays(tmp_path) == whole
    append_for(training, tmp_path, 2)
    assert arrays(tmp_path)[2] == [1, 2]


@pytest.mark.slow
def test_later_evaluations_match_the_images_of_the_first(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single image if the first evaluation has no time, and the same image later."""
    training = new(data, None)
    monkeypatch.setattr(matching_history, "SECONDS", 0)
    append_for(training, tmp_path, 1)
    monkeypatch.setattr(matching_history, "SECONDS", 1e9)
    append_for(training, tmp_path, 2)
    kept = read(tmp_path)
    assert len(kept.image_ids) == 1
    assert kept.queries.shape == (2, 3, kept.counts.sum())
    assert kept.moved.tolist() == [[0, 0, 0]]
    (tmp_path / "more").mkdir()
    append_for(training, tmp_path / "more", 1)
    assert len(read(tmp_path / "more").counts) == (annotate(data.val, data.classes).counts > 0).sum()


def test_moves_by_hand() -> None:
    """Three objects, two layers, three evaluations."""
    queries = np.array([[[0, 1, 2], [0, 1, 2]], [[0, 2, 1], [0, 1, 2]], [[0, 2, UNMATCHED], [3, 1, 2]]], dtype=np.int16)
    kept = Matchings(np.array([7]), np.array([3]), np.array([1, 2, 4]), queries)
    assert kept.moved.tolist() == [[2, 0], [1, 1]]


def test_selected_queries_are_known_by_their_tokens() -> None:
    """Another rank of the same token is no change; another token at the same rank is a change."""
    before = known_by_tokens(np.array([[0, 1, UNMATCHED]]), torch.tensor([[70_000, 40, 9]]))
    after = known_by_tokens(np.array([[1, 0, UNMATCHED]]), torch.tensor([[41, 70_000, 9]]))
    assert before.tolist() == [[70_000, 40, UNMATCHED]]
    assert (before != after).tolist() == [[False, True, False]]
    learned = np.array([[3, 0]])
    assert known_by_tokens(learned, None).tolist() == [[3, 0]]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("dino-tiny", {}),
        ("deformable-tiny", {}),
        ("dino-tiny", {"decoder_layers": 0, "denoising": 0}),
        ("dino-r50-4scale", {"queries": 20, "encoder_layers": 1, "decoder_layers": 1}),
    ],
)
def test_selected_tokens_are_those_with_the_highest_scores(name: str, changes: dict[str, int]) -> None:
    architecture, config = preset(name)
    config = replace(config, **changes)
    torch.manual_seed(0)
    model = architecture.build(config).eval()
    with torch.inference_mode():
        output = model(Batch(torch.randn(1, 3, 64, 96), None))
    tokens, proposals = output.decoder.tokens, output.others[0] if output.others else output.decoder
    if not config.decoder_layers:
        assert tokens is None  # each token is a query
        return
    assert tokens.shape == (1, config.queries)
    assert len(set(tokens[0].tolist())) == config.queries
    logits = proposals.logits[0, 0]
    if proposals.tokens is None:  # proposals of all tokens
        row = logits[:, 0] if name == "deformable-tiny" else logits.amax(-1)
        assert tokens[0].tolist() == row.topk(config.queries).indices.tolist()
    else:
        assert torch.equal(proposals.tokens, tokens)


def test_other_objects_start_a_new_history(data: Data, tmp_path: Path) -> None:
    training = new(data, None)
    append_for(training, tmp_path, 1)
    kept = read(tmp_path)
    matching_history.write_arrays(tmp_path / FILE, vars(kept) | {"counts": kept.counts + 1})
    append_for(training, tmp_path, 2)
    assert read(tmp_path).epochs.tolist() == [2]
    append_for(training, tmp_path, 3)
    assert read(tmp_path).epochs.tolist() == [2, 3]


@pytest.mark.parametrize("content", [None, b"PK broken"])
def test_missing_and_broken_files(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / FILE).write_bytes(content)
    with pytest.raises(DataError, match=FILE):
        read(tmp_path)


@pytest.mark.slow
def test_a_validation_split_without_objects(tmp_path: Path) -> None:
    """There is nothing to match or to measure; the training continues, and its last weights are the best."""
    make_shapes(tmp_path / "data", images=10, size=32, classes=("circle",), objects=2)
    path = tmp_path / "data" / "annotations" / "instances_val.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    data, recorder = data_of(tmp_path / "data"), Recorder()
    outcome = new(data, tmp_path / "run", recorder, epochs=2).run(Interrupts())
    assert (outcome.epochs, outcome.best) == (2, None)
    assert [row["AP"] for row in recorder.rows] == [-1, -1]
    assert not (tmp_path / "run" / FILE).exists()
    assert (tmp_path / "run" / "best.safetensors").exists()
    assert resume(data, tmp_path / "run", epochs=3).run(Interrupts()).epochs == 3


def test_without_a_folder_nothing_is_written(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    finished(new(data, None, epochs=1))
    assert not list(tmp_path.iterdir())
