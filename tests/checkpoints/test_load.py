"""Everything that can be given as weights."""

import hashlib
from pathlib import Path

import pytest
from server import serving, whole
from small import CONFIG, TINY, small_weights

from detrcli.architectures import preset, presets
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


def test_url_with_a_hash(file: Path) -> None:
    """In its name or beside it."""
    body = file.read_bytes()
    sha = hashlib.sha256(body).hexdigest()
    with serving() as server:
        named, plain = f"/w-{sha[:8]}.safetensors", "/w.safetensors"
        server.answers |= {named: whole(body), plain: whole(body)}
        assert load_checkpoint(server.url + named).config == small_weights().config
        assert load_checkpoint(server.url + plain, sha256=sha).config == small_weights().config
        with pytest.raises(UsageError, match="sha256"):
            load_checkpoint(server.url + plain)
        with pytest.raises(WeightsError, match=f"{sha}, not {'0' * 64}"):
            load_checkpoint(server.url + named, sha256="0" * 64)


def test_hash_of_a_file(file: Path) -> None:
    sha = hashlib.sha256(file.read_bytes()).hexdigest()
    assert load_checkpoint(str(file), sha256=sha.upper()).config == small_weights().config
    with pytest.raises(WeightsError, match=f"{sha}, not {'0' * 64}"):
        load_checkpoint(str(file), sha256="0" * 64)
    for invalid in ("abc", sha[1:], "g" + sha[1:]):
        with pytest.raises(UsageError, match="sha256"):
            load_checkpoint(str(file), sha256=invalid)


def test_a_name_fetches_the_published_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From another address, with other contents, which are refused."""
    known = registry.PUBLISHED["detr-r50"]
    with serving() as server:
        monkeypatch.setattr(registry, "BASE", server.url + "/detr/")
        server.answers["/detr/detr-r50-e632da11.pth"] = whole(file.read_bytes())
        with pytest.raises(WeightsError, match=f"not {known.sha256}"):
            load_checkpoint("detr-r50")
        assert server.asked == ["/detr/detr-r50-e632da11.pth"]


def test_the_registry_is_consistent() -> None:
    for name, known in registry.PUBLISHED.items():
        assert known.url == f"{registry.BASE}{name}-{known.sha256[:8]}.pth"
        assert len(known.sha256) in (8, 64)
        architecture, config = presets()[name]
        model = architecture.unfilled(config)
        assert sum(parameter.numel() for parameter in model.parameters()) == known.parameters


def test_unknown_weights(tmp_path: Path) -> None:
    for source, reason in (
        (str(tmp_path / "nowhere.pth"), "nowhere.pth: no such file"),
        ("DETR_R50-dc5", "Did you mean detr-r50-dc5\\?"),
        (str(tmp_path), "neither a run .* nor a Hugging Face model"),
    ):
        with pytest.raises(WeightsError, match=reason):
            load_checkpoint(source)


def test_the_model_must_be_the_named_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="detr-r5.* detr-r50, .*, dino-r50-5scale, "):
        load_checkpoint("x", model="detr-r5")
    tiny, usual = str(tmp_path / "tiny.safetensors"), str(tmp_path / "usual.safetensors")
    native.save(small_weights(TINY), Path(tiny))
    native.save(small_weights(CONFIG), Path(usual))
    assert load_checkpoint(tiny, model="detr-tiny").config == TINY
    assert load_checkpoint(usual, model="detr-r50").architecture is preset("detr-r50").architecture
    for path, model, found in (
        (tiny, "detr-r50", "detr-tiny"),
        (usual, "detr-tiny", r"detr \(resnet50\)"),
        (usual, "detr-r50-dc5", r"detr \(resnet50\)"),
        (usual, "detr-r50-panoptic", r"detr \(resnet50\)"),
    ):
        with pytest.raises(UsageError, match=f"not a {model}: it is a {found}.$"):
            load_checkpoint(path, model=model)
