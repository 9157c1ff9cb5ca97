"""Named models of transformers' families, downloaded from a server on 127.0.0.1."""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from here import Notes
from server import Server, serving, whole

from detrcli.architectures import presets
from detrcli.checkpoints import sources
from detrcli.checkpoints.catalog import CATALOG
from detrcli.checkpoints.download import UnreachableError, cached_path, fetch
from detrcli.checkpoints.load import load_checkpoint, named_preset
from detrcli.checkpoints.registry import check_weights
from detrcli.checkpoints.sources import check_available, obtain, remote
from detrcli.errors import UsageError, WeightsError

NAME = "rf-detr-nano"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def test_entries() -> None:
    for name, model in CATALOG.items():
        assert name == model.name == name.lower()
        assert re.fullmatch(r"hf:[\w.-]+/[\w.-]+|https://\S+", model.source), name
        assert re.fullmatch(r"(\d+x\d+|\d+/\d+)?", model.input), name
        assert re.fullmatch(r"[0-9a-f]{32}", model.md5 or "") if model.repository is None else model.md5 is None, name
        assert model.license in ("Apache-2.0", "MIT"), name
        assert (model.latency_ms is None) or model.family.device, name
        assert model.ap is None or model.family.ap_source, name
    assert len({model.source for model in CATALOG.values()}) == len(CATALOG)


def test_a_file_with_an_md5(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is downloaded once, with its license; its SHA-256 is recorded and checked at every use."""
    monkeypatch.setenv("DETR_CACHE", str(tmp_path / "cache"))
    data = b"weights" * 1000
    server.answers["/model.pth"] = whole(data)
    md5, url = hashlib.md5(data, usedforsecurity=False).hexdigest(), f"{server.url}/model.pth"
    monkeypatch.setitem(sources.CATALOG, NAME, replace(CATALOG[NAME], source=url, md5=md5))
    where, notes = remote(NAME), Notes()
    assert where is not None
    for _ in range(2):
        assert obtain(NAME, where, notes).read_bytes() == data
    assert notes.notes == [f"{NAME}: the license of these weights is Apache-2.0"]
    assert server.asked == ["/model.pth"]

    path = cached_path(url, md5)
    path.write_bytes(data[:-1] + b"!")
    with pytest.raises(WeightsError, match="the first download had"):
        obtain(NAME, where)
    path.unlink()
    obtain(NAME, where)
    with pytest.raises(WeightsError, match=f"MD5 {md5}, not {'0' * 32}"):
        fetch(url, "0" * 32, algorithm="md5")


def test_without_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check needs no network and no torch."""
    monkeypatch.setattr(sources, "find_spec", lambda package: None)
    for name in (NAME, "rt-detr-r18"):
        with pytest.raises(WeightsError, match=rf"{name} needs the package .* pip install 'detrcli\[models\]'$"):
            check_available(name)


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("RF-DETR", "rf-detr-nano, rf-detr-small"),
        ("rfdetr-base", "rf-detr-base?"),
        ("rtdetr-r50", "rt-detr-r50?"),
        ("rtdetr-l", "rt-detr-r50"),
        ("yolo11n", "d-fine-n"),
        ("facebook/detr-resnet-50", "hf:facebook/detr-resnet-50"),
        ("PekingU/rtdetr_r18vd", "rt-detr-r18"),
        ("rf-detr-xlarge", "PML 1.0"),
        ("mask2former-swin-tiny", "CC-BY-NC 4.0"),
        ("deim-s", "d-fine-n"),
        ("deimv2-s", "deimv2-n"),
        ("detr-r5", "detr-r50"),
        ("", "`detr models`"),
        ("/", "`detr models`"),
    ],
)
def test_names_that_people_bring(source: str, hint: str) -> None:
    with pytest.raises(WeightsError, match=re.escape(hint)):
        check_weights(source)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("rf-detr-nano", "`weights=rf-detr-nano` starts from published weights"),
        ("RF-DETR", "`weights=rf-detr-nano` starts from published weights. Similar: rf-detr-small"),
        ("rtdetr-l", "rt-detr-r50"),
        ("yolo11n", "not detection transformers"),
        ("facebook/detr-resnet-50", "It is listed as detr-r50."),
        ("deformable-detr", "Did you mean `model=deformable-detr-r50`?"),
        ("dino-tinny", "Did you mean `model=dino-tiny`?"),
    ],
)
def test_names_of_models_that_people_bring(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(hint)):
        named_preset(name)
    assert name not in presets()


@pytest.mark.parametrize("source", ["hf:a", "hf:a/b@", "hf:", "hf:a/b/c"])
def test_names_that_are_not_of_the_hub(source: str) -> None:
    with pytest.raises(WeightsError, match="OWNER/NAME"):
        load_checkpoint(source)


def test_without_a_network() -> None:
    """A name that cannot be resolved is not tried again."""
    with pytest.raises(UnreachableError, match=r"name\.invalid cannot be reached"):
        fetch("http://name.invalid/w-1a2b3c4d.pth", "1a2b3c4d")
    with pytest.raises(WeightsError, match=r"not on this machine yet, and name\.invalid") as raised:
        check_available("http://name.invalid/w-1a2b3c4d.pth")
    assert all(item in str(raised.value) for item in ("shapes", "FILE", "dino-tiny", "none"))
    check_available("shapes")


@pytest.mark.parametrize(
    "call",
    [
        "predict a.jpg", "predict a.jpg --weights rt-detr-r18", "train shapes", "eval shapes", "report shapes",
        "convert rf-detr-nano out",
    ],
)  # fmt: skip
def test_commands_without_a_network_import_nothing_slow(call: str, tmp_path: Path) -> None:
    """Each ends within a second or two, which the imports decide."""
    code = f"""
import atexit, socket, sys
def getaddrinfo(*_, **__):
    raise socket.gaierror(-2, "Name or service not known")
socket.getaddrinfo = getaddrinfo
atexit.register(lambda: print([name for name in ("torch", "transformers", "httpx", "scipy") if name in sys.modules]))
sys.argv = ["detr", *{call.split()!r}]
from detrcli.cli.app import main
main()
"""
    env = {**os.environ, "DETR_CACHE": str(tmp_path), "HF_HOME": str(tmp_path)}
    shown = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (shown.returncode, shown.stdout) == (4, "[]\n"), shown.stderr
    assert shown.stderr.count("\n") == 3
    assert "not on this machine yet" in shown.stderr
