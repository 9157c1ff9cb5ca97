"""Everything that can be given as weights, the weights in this package, and phrases."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from server import serving, whole
from small import CONFIG, TINY, small_weights

from detrcli.architectures import preset, presets
from detrcli.architectures.mask_heads import DETECTOR
from detrcli.checkpoints import registry
from detrcli.checkpoints.formats import native
from detrcli.checkpoints.formats.native import load_part
from detrcli.checkpoints.load import load_checkpoint
from detrcli.checkpoints.phrases import phrases_of, phrases_of_classes
from detrcli.checkpoints.registry import PUBLISHED, SHIPPED, check_weights
from detrcli.data.shapes import DEFAULT
from detrcli.errors import UsageError, WeightsError
from detrcli.resize import ShortestEdge


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("load") / "w.safetensors"
    native.save(small_weights(), path)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETR_CACHE", str(tmp_path / "cache"))


def test_hashes(file: Path) -> None:
    """Of a file, and of a URL: in its name or beside it."""
    body, zeros = file.read_bytes(), "0" * 64
    sha = hashlib.sha256(body).hexdigest()
    with serving() as server:
        named, plain = f"/w-{sha[:8]}.safetensors", "/w.safetensors"
        server.answers |= {named: whole(body), plain: whole(body)}
        for source, given in ((server.url + named, None), (server.url + plain, sha), (str(file), sha.upper())):
            assert load_checkpoint(source, sha256=given).config == small_weights().config
        for source in (server.url + named, str(file)):
            with pytest.raises(WeightsError, match=f"{sha}, not {zeros}"):
                load_checkpoint(source, sha256=zeros)
        for invalid in (None, "abc", sha[1:], "g" + sha[1:]):
            with pytest.raises(UsageError, match="sha256"):
                load_checkpoint(server.url + plain, sha256=invalid)


def test_a_name_fetches_the_published_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From another address, with other contents, which are refused."""
    known = PUBLISHED["detr-r50"]
    with serving() as server:
        monkeypatch.setattr(registry, "BASE", server.url + "/detr/")
        server.answers["/detr/detr-r50-e632da11.pth"] = whole(file.read_bytes())
        with pytest.raises(WeightsError, match=f"not {known.sha256}"):
            load_checkpoint("detr-r50")
        assert server.asked == ["/detr/detr-r50-e632da11.pth"]


def test_the_registry_is_consistent() -> None:
    for name, known in PUBLISHED.items():
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


def test_the_model_must_be_the_named_one(tmp_path: Path, file: Path) -> None:
    with pytest.raises(UsageError, match=r"(?s)detr-r5.* detr-r50, .*, dino-r50-5scale, "):
        load_checkpoint("x", model="detr-r5")
    tiny, usual = str(tmp_path / "tiny.safetensors"), str(file)
    native.save(small_weights(TINY), Path(tiny))
    assert load_checkpoint(tiny, model="detr-tiny").config == TINY
    assert load_checkpoint(usual, model="detr-r50").architecture is preset("detr-r50").architecture
    assert load_checkpoint(usual).config == CONFIG
    for path, model, description in (
        (tiny, "detr-r50", "detr-tiny"),
        (usual, "detr-tiny", r"detr \(resnet50\)"),
        (usual, "detr-r50-dc5", r"detr \(resnet50\)"),
        (usual, "detr-r50-panoptic", r"detr \(resnet50\)"),
    ):
        with pytest.raises(UsageError, match=f"not a {model}: it is a {description}.$"):
            load_checkpoint(path, model=model)


def test_names_are_checked_before_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "w.pth").touch()
    paths = (str(tmp_path), str(tmp_path / "w.pth"), "~/w.pth")
    for source in (*PUBLISHED, *SHIPPED, "hf:a/b@c", "http://a/b.pth", "https://a/b-12345678.pth", *paths):
        check_weights(source)
    with pytest.raises(WeightsError, match="~/v.pth: no such file"):
        check_weights("~/v.pth")


@pytest.mark.parametrize(("wrong", "right"), [("detr-r5", "detr-r50"), ("Shapes", "shapes"), ("yolov8n", None)])
def test_the_nearest_name_is_suggested(wrong: str, right: str | None) -> None:
    with pytest.raises(WeightsError, match=rf"{wrong}: .*`detr models`") as error:
        check_weights(wrong)
    assert re.findall(r"Did you mean (.*)\?", str(error.value)) == ([right] if right else [])


@pytest.mark.parametrize(
    "command",
    ["predict a.jpg", "visualize-attn a.jpg", "explain a.jpg", "eval shapes", "match-debug shapes", "train shapes"],
)
def test_commands_report_it_before_torch_is_imported(command: str, tmp_path: Path) -> None:
    for library in ("torch", "numpy"):
        (tmp_path / f"{library}.py").write_text(f"raise SystemExit('{library} was imported')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from detrcli.cli.app import main; main()"
    arguments = [sys.executable, "-c", code, *command.split(), "--weights", "detr-r5"]
    shown = subprocess.run(arguments, capture_output=True, text=True)
    assert shown.returncode == 4
    assert shown.stderr.startswith("detr: detr-r5: ")


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("a cat. a remote control.", ["a cat", "a remote control"]),
        ("a cat.a Remote  control", ["a cat", "a Remote control"]),
        ("..a cat. .", ["a cat"]),
        ("a cat.\n\ta\u2028dog", ["a cat", "a dog"]),
        ("caf\u00e9. \u732b", ["caf\u00e9", "\u732b"]),
        ("is it a cat?", ["is it a cat?"]),
        (["St. Bernard", " a cat "], ["St. Bernard", "a cat"]),
    ],
)
def test_phrases(text: str | list[str], phrases: list[str]) -> None:
    assert phrases_of(text) == phrases


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no phrase"),
        (" . . ", "no phrase"),
        ([], "no phrase"),
        (["a cat", " "], "no phrase"),
        ("a cat. a dog. A  cat.", '"A cat" twice'),
        ("a \x1b[31mcat", r'"a \\x1b\[31mcat" contains invisible'),
        ("a \u202ecat", r'"a \\u202ecat" contains invisible'),
        ("a cat\x00", "invisible"),
    ],
)
def test_invalid_phrases(text: str | list[str], reason: str) -> None:
    with pytest.raises(UsageError, match=f"^`text`: .*{reason}"):
        phrases_of(text)


def test_class_names_as_phrases() -> None:
    assert phrases_of_classes(["dog", "Cat", "cat ", "St. Bernard", "DOG"]) == ["dog", "Cat", "St. Bernard"]


MODELS = {"shapes": "dino-tiny", "shapes-masks": "dino-tiny-masks", "shapes-detr": "detr-tiny"}


@pytest.mark.parametrize("name", SHIPPED)
def test_they_are_small_presets_trained_on_shapes_and_have_a_record(name: str) -> None:
    shipped = SHIPPED[name]
    assert shipped.path.stat().st_size <= 8_000_000
    masks = {"masks"} if shipped.detector else set()
    facts = {"commands", "stopped", "machine", "minutes", "versions", "metrics"}
    assert shipped.record.keys() == facts | masks
    assert any(f"--model {MODELS[name]} " in command for command in shipped.record["commands"])
    checkpoint = load_checkpoint(name)
    assert (checkpoint.architecture, checkpoint.config) == preset(MODELS[name])
    assert checkpoint.source == name
    assert tuple(checkpoint.classes.names) == DEFAULT
    assert checkpoint.preprocessing.resize == ShortestEdge(160, 266)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_they_reach_the_recorded_metrics(name: str) -> None:
    command = [sys.executable, "-m", "detrcli", "eval", "shapes", "--weights", name, "--json"]
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    recorded = SHIPPED[name].record
    # Rounding differs between machines.
    assert answer["metrics"] == pytest.approx(recorded["metrics"], abs=0.002)
    if "masks" in recorded:
        assert {key: answer["masks"][key] for key in recorded["masks"]} == pytest.approx(recorded["masks"], abs=0.002)


def test_the_mask_head_is_separate_from_its_detector() -> None:
    """The detector is the shipped one, bitwise, and loading leaves torch's random state."""
    head, detector = SHIPPED["shapes-masks"], SHIPPED["shapes"]
    assert head.detector == "shapes"
    assert head.bytes == head.path.stat().st_size + detector.path.stat().st_size <= 10_000_000
    state = torch.get_rng_state()
    both, alone = load_checkpoint("shapes-masks"), load_checkpoint("shapes")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(both.tensors[f"{DETECTOR}{name}"], tensor) for name, tensor in alone.tensors.items())
    both.model()


def test_a_flipped_bit_in_a_mask_head_is_noticed(tmp_path: Path) -> None:
    data = bytearray(SHIPPED["shapes-masks"].path.read_bytes())
    data[-5] ^= 4
    (tmp_path / "head.safetensors").write_bytes(data)
    with pytest.raises(WeightsError, match="damaged"):
        load_part(tmp_path / "head.safetensors", "head")
