"""Commands with named models, from a hub and a storage on 127.0.0.1."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import families
import pytest
import torch
from here import Detr, all_detections
from originals import HGNET, MODELS, original_names, randomize
from server import Server, put_repository, serving_hub, whole

from detrcli.checkpoints import sources
from detrcli.checkpoints.catalog import CATALOG

transformers = pytest.importorskip("transformers")
HUB_MODEL, FILE_MODEL = "rt-detr-r18", "rf-detr-nano"
LICENSE = "{}: the license of these weights is Apache-2.0"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A hub with a small RT-DETR under the name of a published one."""
    with serving_hub(tmp_path, monkeypatch) as server:
        folder = families.folder_of("rt")
        put_repository(server, CATALOG[HUB_MODEL].repository or "", {p.name: p.read_bytes() for p in folder.iterdir()})
        yield server


def test_prediction_with_a_model_of_the_hub(
    hub: Server, detr: Detr, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first command downloads it, the next takes it from the cache without a network."""
    call = ("predict", image, "--weights", HUB_MODEL, "--threshold", 0, "--no-images", "--json")
    first = detr(*call).ok()
    assert first.err.splitlines()[:2] == [
        f"detr: {LICENSE.format(HUB_MODEL)}",
        "detr: downloading PekingU/rtdetr_r18vd/model.safetensors (1 MB)",
    ]
    asked = len(hub.asked)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    again = detr(*call).ok()
    assert (again.out, again.err) == (first.out, "")
    assert len(hub.asked) == asked
    assert first.json["images"][0]["detections"] == all_detections(detr, image, families.folder_of("rt"))


@pytest.mark.slow
def test_commands_with_a_model_of_the_hub(hub: Server, detr: Detr, data: Path, image: Path, tmp_path: Path) -> None:
    """The hub is asked by the first command only."""
    assert "license" in detr("eval", data, "--weights", HUB_MODEL, "--json").ok().err
    asked = len(hub.asked)
    expected = all_detections(detr, image, families.folder_of("rt"))
    detr("convert", HUB_MODEL, "folder").ok()
    assert all_detections(detr, image, tmp_path / "folder") == expected
    detr("train", data, "--weights", HUB_MODEL, "--epochs", 1, "--batch-size", 4, "--out", "run", "--no-report").ok()
    assert (tmp_path / "run" / "best").exists()
    table = detr("models").ok().out
    assert [line.split()[-1] for line in table.splitlines() if line.startswith(f"{HUB_MODEL} ")] == ["yes"]
    assert detr("models", HUB_MODEL, "--json").ok().json["cached"] is True
    assert len(hub.asked) == asked


@pytest.mark.slow
def test_commands_with_a_file_of_a_storage(
    hub: Server, detr: Detr, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_type, facts, _ = MODELS["dfine_n_coco.pth"]
    config = transformers.AutoConfig.for_model(model_type, **facts)
    network = randomize(transformers.AutoModelForObjectDetection.from_config(config))
    torch.save({"model": original_names(network, HGNET)}, tmp_path / "model.pth")
    data = (tmp_path / "model.pth").read_bytes()
    hub.answers["/model.pth"] = whole(data)
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    named = replace(CATALOG[FILE_MODEL], source=f"{hub.url}/model.pth", md5=md5)
    monkeypatch.setitem(sources.CATALOG, FILE_MODEL, named)
    call = ("predict", image, "--weights", FILE_MODEL, "--no-images", "--json")
    first = detr(*call).ok()
    assert first.err.splitlines()[0] == f"detr: {LICENSE.format(FILE_MODEL)}"
    assert (again := detr(*call).ok()).out == first.out
    assert again.err == ""
    assert hub.asked == ["/model.pth"]
