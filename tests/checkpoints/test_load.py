"""Everything that --weights takes, by what it is."""

import hashlib
from pathlib import Path

import pytest
from server import serving, whole
from small import CONFIG, TINY, small_weights

from detrcli.architectures import architecture_of, preset, presets
from detrcli.checkpoints import registry
from detrcli.checkpoints.formats import native
from detrcli.checkpoints.load import load_checkpoint
from detrcli.errors import UsageError, WeightsError


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("load") / "w.safetensors"
    native.save(small_weights(), path)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETR_CACHE", str(tmp_path / "cache"))


def test_url_with_a_hash_in_its_name_or_beside_it(file: Path) -> None:
    body = file.read_bytes()
    sha = hashlib.sha256(body).hexdigest()
    with serving() as server:
        named, plain = f"/w-{sha[:8]}.safetensors", "/w.safetensors"
        server.answers |= {named: whole(body), plain: whole(body)}
        assert load_checkpoint(server.url + named).config == small_weights().config
        assert load_checkpoint(server.url + plain, sha256=sha).config == small_weights().config
        with pytest.raises(UsageError, match="--sha256"):
            load_checkpoint(server.url + plain)
        with pytest.raises(WeightsError, match="what came has the SHA-256"):
            load_checkpoint(server.url + named, sha256="0" * 64)


def test_a_name_fetches_the_published_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real code on another address: it asks for the file of the registry and refuses another's contents."""
    known = registry.PUBLISHED["detr-r50"]
    with serving() as server:
        monkeypatch.setattr(registry, "BASE", server.url + "/detr/")
        server.answers["/detr/detr-r50-e632da11.pth"] = whole(file.read_bytes())
        with pytest.raises(WeightsError, match=f"not {known.sha256}"):
            load_checkpoint("detr-r50")
        assert server.asked == ["/detr/detr-r50-e632da11.pth"]


def test_registry_agrees_with_itself() -> None:
    for name, known in registry.PUBLISHED.items():
        assert known.sha256.startswith(known.file.rsplit("-", 1)[1].removesuffix(".pth"))
        assert known.file.startswith(name)
        assert len(known.sha256) in (8, 64)
        assert name in presets()
        architecture = architecture_of(preset(name))
        model = architecture.unfilled(preset(name))
        assert sum(parameter.numel() for parameter in model.parameters()) == known.parameters


def test_what_is_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file or folder, and no name of weights"):
        load_checkpoint(str(tmp_path / "nowhere.pth"))
    with pytest.raises(WeightsError, match="Did you mean detr-r50-dc5\\?"):
        load_checkpoint("DETR_R50-dc5")
    with pytest.raises(WeightsError, match="neither a run .* nor a Hugging Face model"):
        load_checkpoint(str(tmp_path))


def test_model_says_what_the_weights_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--model detr-r5: there is detr-r50, .*, dino-r50-5scale, .*"):
        load_checkpoint("x", model="detr-r5")
    tiny, usual = str(tmp_path / "tiny.safetensors"), str(tmp_path / "usual.safetensors")
    native.save(small_weights(TINY), Path(tiny))
    native.save(small_weights(CONFIG), Path(usual))
    assert load_checkpoint(tiny, model="detr-tiny").config == TINY
    assert load_checkpoint(usual, model="detr-r50").config == CONFIG
    for path, model, is_a in (
        (tiny, "detr-r50", "it is a detr-tiny"),
        (usual, "detr-tiny", "it is a detr"),
        (usual, "detr-r50-dc5", "its backbone is resnet50"),
    ):
        with pytest.raises(UsageError, match=f"not a {model}: {is_a}.$"):
            load_checkpoint(path, model=model)
