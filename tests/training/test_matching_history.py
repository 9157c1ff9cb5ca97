"""What a training keeps of its matching: the same pictures each time, a row an evaluation, none twice."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small import architecture_of
from trainings import CPU, RecordingReport, data_of, new, resume, stopped

from detrcli.architectures import preset
from detrcli.data.annotations import annotate
from detrcli.data.make import make_shapes
from detrcli.errors import DataError
from detrcli.inference.detector import Detector
from detrcli.inspection.matching import UNMATCHED, changed
from detrcli.structures import Batch
from detrcli.system.files import write_arrays
from detrcli.training import matching_history as matchings
from detrcli.training.interrupts import Interrupts
from detrcli.training.matching_history import FILE, Matchings, append, known_by_tokens, read
from detrcli.training.setup import Data

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def enough_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine, all pictures are matched."""
    monkeypatch.setattr(matchings, "SECONDS", 1e9)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, images=20, size=32, classes=("circle", "square"), objects=3)
    return data_of(folder)


def arrays(run: Path) -> list[list]:
    kept = read(run)
    return [kept.image_ids.tolist(), kept.counts.tolist(), kept.epochs.tolist(), kept.queries.tolist()]


@pytest.mark.slow
def test_stopped_and_resumed_keeps_what_a_whole_training_keeps(data: Data, tmp_path: Path) -> None:
    new(data, tmp_path / "whole").go(Interrupts())
    whole = arrays(tmp_path / "whole")
    assert whole[2] == [1, 2, 3]
    for name, place in (("step", {"step": 12}), ("evaluation", {"picture": 2})):
        stopped(data, tmp_path / name, **place)
        resume(data, tmp_path / name).go(Interrupts())
        assert arrays(tmp_path / name) == whole


@pytest.mark.slow
def test_an_evaluation_that_is_done_again_counts_once(data: Data, tmp_path: Path) -> None:
    """As after a kill between the evaluation and the state that would know of it."""
    training = new(data, tmp_path)
    training.go(Interrupts())
    whole = arrays(tmp_path)
    detector = Detector(training.initial.checkpoint, CPU, model=training.model.eval())
    append(tmp_path, 3, detector, annotate(data.val, data.classes), training.loss.matcher)
    assert arrays(tmp_path) == whole
    append(tmp_path, 2, detector, annotate(data.val, data.classes), training.loss.matcher)
    assert arrays(tmp_path)[2] == [1, 2]


@pytest.mark.slow
def test_later_evaluations_take_the_pictures_of_the_first(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One picture, where the time was up at once; and that one again when there would be time for all."""
    training = new(data, None)
    detector = Detector(training.initial.checkpoint, CPU, model=training.model.eval())
    truth = annotate(data.val, data.classes)
    monkeypatch.setattr(matchings, "SECONDS", 0)
    append(tmp_path, 1, detector, truth, training.loss.matcher)
    monkeypatch.setattr(matchings, "SECONDS", 1e9)
    append(tmp_path, 2, detector, truth, training.loss.matcher)
    kept = read(tmp_path)
    assert len(kept.image_ids) == 1
    assert kept.queries.shape == (2, 3, kept.counts.sum())
    assert kept.moved.tolist() == [[0, 0, 0]]
    (tmp_path / "more").mkdir()
    append(tmp_path / "more", 1, detector, truth, training.loss.matcher)
    counts = read(tmp_path / "more").counts
    assert len(counts) == (truth.counts > 0).sum()


def test_moves_of_an_example_worked_by_hand() -> None:
    """Three objects, two layers, three evaluations."""
    queries = np.array([[[0, 1, 2], [0, 1, 2]], [[0, 2, 1], [0, 1, 2]], [[0, 2, UNMATCHED], [3, 1, 2]]], dtype=np.int16)
    kept = Matchings(np.array([7]), np.array([3]), np.array([1, 2, 4]), queries)
    assert kept.moved.tolist() == [[2, 0], [1, 1]]
    assert kept.before(4).moved.tolist() == [[2, 0]]


def test_chosen_queries_are_known_by_their_tokens() -> None:
    """Another rank of the same token is no change; another token at the same rank is one."""
    before = known_by_tokens(np.array([[0, 1, UNMATCHED]]), torch.tensor([[70_000, 40, 9]]))
    after = known_by_tokens(np.array([[1, 0, UNMATCHED]]), torch.tensor([[41, 70_000, 9]]))
    assert before.tolist() == [[70_000, 40, UNMATCHED]]
    assert changed(before, after).tolist() == [[False, True, False]]
    learned = np.array([[3, 0]])
    assert known_by_tokens(learned, None).tolist() == [[3, 0]]


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("dino-tiny", {}),
        ("deformable-tiny", {}),
        ("dino-tiny", {"decoder_layers": 0, "denoising": 0}),
        ("dino-r50-4scale", {"queries": 20, "encoder_layers": 1, "decoder_layers": 1}),
    ],
)
def test_models_that_choose_say_which_tokens(name: str, given: dict[str, int]) -> None:
    """The token's own proposal is where the query begins: what each chose is what its proposer finds surest."""
    config = replace(preset(name).config, **given)
    torch.manual_seed(0)
    model = architecture_of(config).build(config).eval()
    with torch.inference_mode():
        output = model(Batch(torch.randn(1, 3, 64, 96), None))
    tokens, proposals = output.decoder.tokens, output.others[0] if output.others else output.decoder
    if not config.decoder_layers:
        assert tokens is None  # each token is a query
        return
    assert tokens is not None
    assert tokens.shape == (1, config.queries)
    assert len(set(tokens[0].tolist())) == config.queries
    logits = proposals.logits[0, 0]
    if proposals.tokens is None:  # all of them
        row = logits[:, 0] if name == "deformable-tiny" else logits.amax(-1)
        assert tokens[0].tolist() == row.topk(config.queries).indices.tolist()
    else:
        assert torch.equal(proposals.tokens, tokens)


def test_what_a_version_before_kept_by_rank_is_not_gone_on_with(data: Data, tmp_path: Path) -> None:
    training = new(data, None)
    detector = Detector(training.initial.checkpoint, CPU, model=training.model.eval())
    truth = annotate(data.val, data.classes)
    append(tmp_path, 1, detector, truth, training.loss.matcher)
    kept = read(tmp_path)
    earlier = vars(kept) | {"queries": kept.queries.astype(np.int16)}
    write_arrays(tmp_path / FILE, earlier)
    append(tmp_path, 2, detector, truth, training.loss.matcher)
    assert read(tmp_path).epochs.tolist() == [2]
    append(tmp_path, 3, detector, truth, training.loss.matcher)
    assert read(tmp_path).epochs.tolist() == [2, 3]


def test_what_is_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no matching was kept"):
        read(tmp_path)
    (tmp_path / FILE).write_bytes(b"PK broken")
    with pytest.raises(DataError, match=r"matching\.npz"):
        read(tmp_path)


@pytest.mark.slow
def test_a_validation_split_without_objects(tmp_path: Path) -> None:
    """There is nothing to match, nor to measure; the training goes on, and its last weights are kept."""
    make_shapes(tmp_path / "data", images=10, size=32, classes=("circle",), objects=2)
    path = tmp_path / "data" / "annotations" / "instances_val.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    data, report = data_of(tmp_path / "data"), RecordingReport()
    outcome = new(data, tmp_path / "run", report, epochs=2).go(Interrupts())
    assert (outcome.epochs, outcome.best) == (2, None)
    assert [row["AP"] for row in report.rows] == [-1, -1]
    assert not (tmp_path / "run" / FILE).exists()
    assert (tmp_path / "run" / "best.safetensors").exists()
    assert resume(data, tmp_path / "run", epochs=3).go(Interrupts()).epochs == 3


def test_without_a_folder_nothing_is_kept(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    new(data, None, RecordingReport(), epochs=1).go(Interrupts())
    assert not list(tmp_path.iterdir())
