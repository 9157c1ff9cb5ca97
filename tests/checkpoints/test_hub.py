"""`hf:OWNER/NAME`, with the real client against a hub on 127.0.0.1."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from server import Server, serving, whole

pytest.importorskip("huggingface_hub")

COMMIT = "c" * 40
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"tensors" * 1000,
    "README.md": b"not wanted",
    "tokenizer.json": b"words",
    "vocab.txt": b"a\nb\n",
    "tokenizer.pickle": b"not wanted",
    "tokenization_own.py": b"not wanted",
}
WANTED = {name: data for name, data in FILES.items() if data != b"not wanted"}
FETCH = "import sys; from detrcli.checkpoints.formats.hugging_face import fetch; print(fetch(sys.argv[1]))"


@pytest.fixture
def hub() -> Iterator[Server]:
    """The repository some/detr with its branch and a tag v1."""
    siblings = [
        {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
        for name, data in FILES.items()
    ]
    promised = hashlib.sha256(FILES["model.safetensors"]).hexdigest()
    siblings[1]["lfs"] = {"size": siblings[1]["size"], "sha256": promised, "pointerSize": 130}
    info = json.dumps({"id": "some/detr", "modelId": "some/detr", "sha": COMMIT, "siblings": siblings})
    with serving() as server:
        for revision in ("", "/revision/main", "/revision/v1"):
            server.answers[f"/api/models/some/detr{revision}"] = whole(info.encode())
        for name, data in FILES.items():
            put(server, name, data)
        yield server


def put(server: Server, name: str, data: bytes) -> None:
    headers = [("ETag", f'"{hashlib.sha256(data).hexdigest()}"'), ("X-Repo-Commit", COMMIT)]
    server.answers[f"/some/detr/resolve/{COMMIT}/{name}"] = whole(data, headers=headers)


def fetch(server: Server, name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(folder), "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run([sys.executable, "-c", FETCH, name], env=env, capture_output=True, text=True)


@pytest.mark.slow
def test_from_the_hub(hub: Server, tmp_path: Path) -> None:
    for name in ("some/detr", "some/detr@v1"):
        folder = Path(fetch(hub, name, tmp_path).stdout.strip())
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == WANTED
    assert "/api/models/some/detr/revision/v1" in hub.asked
    assert "the download failed" in fetch(hub, "some/other", tmp_path).stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "data", "kind"),
    [("model.safetensors", b"Tensors" * 1000, "SHA-256"), ("tokenizer.json", b"wards", "git hash")],
)
def test_files_with_a_wrong_hash_are_deleted(hub: Server, tmp_path: Path, file: str, data: bytes, kind: str) -> None:
    """Large files are checked by their SHA-256, others by git's hash."""
    put(hub, file, data)
    assert f"hf:some/detr: {file} has the {kind}" in fetch(hub, "some/detr", tmp_path).stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == data]
