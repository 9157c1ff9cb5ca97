"""Named models of transformers' families, downloaded from a server on 127.0.0.1."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from here import Notes
from originals import HGNET, MODELS, original_names, randomize
from server import Server, serving, whole

from detrcli.checkpoints import load as loading
from detrcli.checkpoints.catalog import CATALOG
from detrcli.checkpoints.download import cached_path, fetch
from detrcli.checkpoints.load import load_checkpoint
from detrcli.checkpoints.registry import check_weights
from detrcli.errors import WeightsError

NAME = "rf-detr-nano"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def test_entries() -> None:
    for name, model in CATALOG.items():
        assert name == model.name == name.lower()
        assert re.fullmatch(r"hf:[\w.-]+/[\w.-]+|https://\S+", model.source), name
        assert (model.md5 is None) == (model.repository is not None), name
        assert model.license in ("Apache-2.0", "MIT"), name


def test_a_file_with_an_md5(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is downloaded once, with its license; its SHA-256 is recorded and checked at every use."""
    transformers = pytest.importorskip("transformers")
    monkeypatch.setenv("DETR_CACHE", str(tmp_path / "cache"))
    model_type, facts, _ = MODELS["dfine_n_coco.pth"]
    config = transformers.AutoConfig.for_model(model_type, **facts)
    network = randomize(transformers.AutoModelForObjectDetection.from_config(config))
    torch.save({"model": original_names(network, HGNET)}, tmp_path / "model.pth")
    data = (tmp_path / "model.pth").read_bytes()
    server.answers["/model.pth"] = whole(data)
    md5, url = hashlib.md5(data, usedforsecurity=False).hexdigest(), f"{server.url}/model.pth"
    monkeypatch.setitem(loading.CATALOG, NAME, replace(CATALOG[NAME], source=url, md5=md5))
    notes = Notes()
    assert load_checkpoint(NAME, reporter=notes).config.classes == 80
    assert any("Apache-2.0" in text for text in notes.notes)
    load_checkpoint(NAME)
    assert server.asked == ["/model.pth"]

    path = cached_path(url, md5)
    path.write_bytes(data[:-1] + b"!")
    with pytest.raises(WeightsError, match="the first download had"):
        load_checkpoint(NAME)
    path.unlink()
    load_checkpoint(NAME)
    with pytest.raises(WeightsError, match=f"MD5 {md5}, not {'0' * 32}"):
        fetch(url, "0" * 32, algorithm="md5")


def test_a_repository_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "find_spec", lambda package: package)
    monkeypatch.setattr(loading.hugging_face, "fetch", lambda repository: tmp_path / repository)
    monkeypatch.setattr(loading.hugging_face, "load", lambda folder, source, phrases: (folder, source, tuple(phrases)))
    model = CATALOG["d-fine-n"]
    assert loading._load_named(model, (), Notes()) == (tmp_path / "ustc-community/dfine-nano-coco", "d-fine-n", ())


def test_without_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "find_spec", lambda package: None)
    with pytest.raises(WeightsError, match=r"rf-detr-nano needs .* pip install 'detrcli\[models\]'"):
        load_checkpoint(NAME)


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("RF-DETR", "rf-detr-nano, rf-detr-small"),
        ("rfdetr-base", "rf-detr-base?"),
        ("rtdetr-r50", "rt-detr-r50?"),
        ("rtdetr-l", "rt-detr-r50"),
        ("yolo11n", "d-fine-n"),
        ("facebook/detr-resnet-50", "hf:facebook/detr-resnet-50"),
        ("detr-r5", "detr-r50"),
        ("", "`detr models`"),
        ("/", "`detr models`"),
    ],
)
def test_names_that_people_bring(source: str, hint: str) -> None:
    with pytest.raises(WeightsError, match=re.escape(hint)):
        check_weights(source)


@pytest.mark.parametrize("source", ["hf:a", "hf:a/b@", "hf:", "hf:a/b/c"])
def test_names_that_are_not_of_the_hub(source: str) -> None:
    with pytest.raises(WeightsError, match="OWNER/NAME"):
        load_checkpoint(source)


def test_without_a_network() -> None:
    """A name that cannot be resolved is not tried again, and the message tells what works."""
    with pytest.raises(WeightsError, match="cannot be resolved") as raised:
        fetch("http://name.invalid/w-1a2b3c4d.pth", "1a2b3c4d")
    assert "shapes" in str(raised.value)
