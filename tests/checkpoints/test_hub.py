"""`hf:OWNER/NAME` and the named models that are there, with the hub's real client and a hub on 127.0.0.1."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from here import Notes
from server import Server, breaking, hash_of, put_repository, send, serving_hub

from detrcli.checkpoints.download import UnreachableError
from detrcli.checkpoints.hub import HubModel
from detrcli.checkpoints.sources import check_available, obtain, remote
from detrcli.errors import WeightsError

pytest.importorskip("huggingface_hub")

NAME = "some/detr"
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"tensors" * 100_000,
    "README.md": b"not wanted",
    "tokenizer.json": b"words",
    "vocab.txt": b"a\nb\n",
    "tokenizer.pickle": b"not wanted",
    "tokenization_own.py": b"not wanted",
}
WANTED = {name: data for name, data in FILES.items() if data != b"not wanted"}
STORAGE = f"/storage/{hash_of(FILES['model.safetensors'])}"
COMMIT = "c" * 40


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A hub with a repository, its branch and a tag v1."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts
    with serving_hub(tmp_path, monkeypatch) as server:
        put_repository(server, NAME, FILES, revisions=("main", "v1"))
        yield server


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("source", [f"hf:{NAME}", f"hf:{NAME}@v1"])
def test_from_the_hub(source: str, hub: Server, tmp_path: Path) -> None:
    notes = Notes()
    assert content(HubModel.of(source).fetch(notes)) == WANTED
    assert hub.asked.count(STORAGE) == 1
    assert notes.notes == []
    record = json.loads(next((tmp_path / "cache" / "hub").iterdir()).read_text())
    assert record == {"commit": COMMIT, "sha256": {name: hash_of(data) for name, data in WANTED.items()}}


def test_without_a_network_the_cache_is_used(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A named model stays at the commit of its first download, and the hub is not asked again."""
    model, named, notes = HubModel(NAME), HubModel(NAME, pinned=True), Notes()
    named.fetch()
    put_repository(hub, NAME, {**FILES, "config.json": b'{"new": 1}'}, commit="d" * 40)
    asked = len(hub.asked)
    assert content(named.fetch()) == WANTED
    assert len(hub.asked) == asked
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    assert content(named.fetch()) == WANTED
    assert content(model.fetch(notes)) == WANTED
    assert "the files in the cache are used" in notes.notes[0]
    with pytest.raises(UnreachableError, match=r"hub\.invalid cannot be reached"):
        HubModel("some/other").fetch()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    assert content(model.fetch())["config.json"] == b'{"new": 1}'


def test_a_cache_that_other_programs_filled(hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `hf download`, or copied from another machine."""
    HubModel(NAME).fetch()
    next((tmp_path / "cache" / "hub").iterdir()).unlink()
    refs = tmp_path / "hub" / "models--some--detr" / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    assert content(HubModel(NAME).fetch()) == WANTED


@pytest.mark.parametrize(
    ("file", "data", "kind"),
    [("model.safetensors", b"Tensors" * 100_000, "SHA-256"), ("tokenizer.json", b"wards", "git hash")],
)
def test_files_with_a_wrong_hash_are_deleted(hub: Server, tmp_path: Path, file: str, data: bytes, kind: str) -> None:
    """Large files are checked by their SHA-256, others by git's hash."""
    path = STORAGE if file == "model.safetensors" else f"/{NAME}/resolve/{COMMIT}/{file}"
    right = hub.answers[path]
    headers = [("X-Repo-Commit", COMMIT), ("ETag", '"wrong"')]
    hub.answers[path] = lambda request, _: send(request, data, headers=headers)
    with pytest.raises(WeightsError, match=f"hf:some/detr: {file} has the {kind} .* It was deleted"):
        HubModel(NAME).fetch()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == data]
    hub.answers[path] = right
    assert content(HubModel(NAME).fetch()) == WANTED


@pytest.mark.parametrize("pinned", [False, True])
def test_files_that_changed_after_the_first_download(hub: Server, pinned: bool) -> None:
    folder = HubModel(NAME, pinned=pinned).fetch()
    (folder / "config.json").resolve().write_bytes(b"[]")
    with pytest.raises(WeightsError, match="has the SHA-256|git hash"):
        HubModel(NAME, pinned=pinned).fetch()


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_continues(hub: Server, ranges: bool) -> None:
    hub.answers[STORAGE] = breaking(FILES["model.safetensors"], times=2, ranges=ranges)
    assert content(HubModel(NAME).fetch()) == WANTED
    assert hub.asked.count(STORAGE) == 3


def test_a_repository_without_tensors(hub: Server) -> None:
    put_repository(hub, NAME, {"config.json": b"{}", "pytorch_model.bin": b""})
    with pytest.raises(WeightsError, match=r"there is no model\.safetensors"):
        HubModel(NAME).fetch()
    with pytest.raises(WeightsError, match="some/nothing"):
        HubModel("some/nothing").fetch()


def test_named_models(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The license is reported at the first download."""
    put_repository(hub, "PekingU/rtdetr_r18vd", FILES)
    where = remote("rt-detr-r18")
    assert isinstance(where, HubModel)
    assert where == replace(where, pinned=True)
    check_available("rt-detr-r18")
    notes = Notes()
    obtain("rt-detr-r18", where, notes)
    obtain("rt-detr-r18", where, notes)
    assert notes.notes == ["rt-detr-r18: the license of these weights is Apache-2.0"]
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    check_available("rt-detr-r18")
    with pytest.raises(WeightsError, match=r"d-fine-n is not on this machine yet, and hub\.invalid cannot") as error:
        check_available("d-fine-n")
    assert all(item in str(error.value) for item in ("shapes", "FOLDER", "dino-tiny", "none"))
