"""Open-vocabulary detectors, compared with transformers' own pipeline."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import box_pairs, images, truth_of_predictions
from families import folder_of as closed_set
from here import Detr
from judge import twelve
from phrases import MAX_TOKENS, NAMES, PHRASES, TEXT, folder_of
from PIL import Image
from trainings import shapes_folder
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor
from transformers.models.grounding_dino.modeling_grounding_dino import build_label_maps

import detrcli
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.preprocessing import collate, prepare
from detrcli.errors import UsageError, WeightsError


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


data = shapes_folder(images=30, size=96, objects=3)


class Judge:
    """Transformers' own pipeline."""

    def __init__(self, folder: Path) -> None:
        self.processor: Any = AutoProcessor.from_pretrained(folder)
        self.network: Any = AutoModelForZeroShotObjectDetection.from_pretrained(folder).eval()

    @torch.no_grad()
    def output(self, image: Image.Image, phrases: list[str]) -> tuple[Any, Any]:
        inputs = self.processor(images=image, text=[phrases], return_tensors="pt")
        return inputs, self.network(**inputs)

    def boxes(self, output: Any, image: Image.Image) -> dict[str, Any]:
        (boxes,) = self.processor.post_process_grounded_object_detection(
            output, threshold=0.0, target_sizes=[(image.height, image.width)]
        )
        return dict(boxes)

    def of_phrases(self, inputs: Any, output: Any) -> torch.Tensor:
        """Return the probability of each phrase, (Q, K): its best token's, by transformers' own map of tokens."""
        scores = output.logits[0].sigmoid()
        if not hasattr(output, "input_ids"):
            return scores
        (map_,) = build_label_maps(output.logits, inputs["input_ids"])  # (K, T)
        return torch.stack([scores[:, tokens.bool()].amax(1) for tokens in map_], 1)


def test_predictions(folder: Path) -> None:
    detector, judge = detrcli.load(folder, "cpu", text=TEXT), Judge(folder)
    assert detector.classes.names.tolist() == PHRASES
    labels, separators = set(), 0
    for image in images():
        inputs, output = judge.output(image, PHRASES)
        detections, theirs = detector.predict(image, threshold=0.0), judge.boxes(output, image)
        assert (detections.queries == np.arange(len(theirs["scores"]))).all()
        if hasattr(output, "input_ids"):  # queries start as proposals, whose scores may be nearly equal
            detections = detections.part(order_of(theirs["boxes"].numpy(), detections.boxes))
        np.testing.assert_allclose(detections.boxes, theirs["boxes"], atol=0.05)
        best, index = judge.of_phrases(inputs, output).max(1)
        np.testing.assert_allclose(detections.scores, best, atol=1e-4)
        assert (detections.category_ids == index.numpy()).all()
        # Their score may be that of a separator between the phrases.
        of_phrase = np.isclose(detections.scores, theirs["scores"], atol=1e-4)
        assert (detections.scores[~of_phrase] < theirs["scores"].numpy()[~of_phrase]).all()
        assert of_phrase.any()
        separators += int((~of_phrase).sum())
        labels |= set(detections.labels)
    assert len(labels) > 1
    assert (separators > 0) == hasattr(output, "input_ids")


def order_of(expected: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the order of the nearest boxes."""
    order: np.ndarray = np.abs(boxes[:, None] - expected[None]).max(-1).argmin(0)
    assert sorted(order) == list(range(len(expected)))
    return order


def test_tokens(folder: Path, checkpoint: Checkpoint) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor(text=[PHRASES], return_tensors="pt")
    config: Any = checkpoint.config
    rows = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    assert list(config.texts) == [tuple(row[mask.bool()].tolist()) for row, mask in rows]
    if config.spans:
        words = [processor.tokenizer.decode(config.texts[0][first:end]) for first, end in config.spans]
        assert words == [phrase.lower() for phrase in PHRASES]


@torch.no_grad()
def test_every_layer(name: str, folder: Path, checkpoint: Checkpoint) -> None:
    output = checkpoint.model()(collate([prepare(next(images()), checkpoint.preprocessing)]))
    judge = Judge(folder)
    inputs, theirs = judge.output(next(images()), PHRASES)
    torch.testing.assert_close(output.last.logits[0].sigmoid(), judge.of_phrases(inputs, theirs), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.last.boxes, theirs.pred_boxes, atol=1e-5, rtol=1e-5)
    assert len(output.decoder) == (1 if name.startswith("owl") else 2)


@pytest.mark.slow
def test_visualize_attn(name: str, folder: Path, image: Path, detr: Detr) -> None:
    look = ("visualize-attn", image, "--weights", folder, "--text", TEXT)
    shown = detr(*look, "--query", 3, "--layer", "all", "--raw", "raw.npz", "--out", "cross.png", "--json").ok()
    raw = np.load("raw.npz")
    np.testing.assert_allclose(raw["cross"].sum((-1, -2)), 1, atol=1e-3)
    assert shown.json["queries"][0]["label"] in PHRASES
    sampled = not name.startswith("owl")
    if sampled:
        np.testing.assert_allclose(raw["weights"].sum((3, 4)), 1, atol=1e-5)
    for code, options in (
        (0, ("--encoder", "30,30", "--layer", "all", "--out", "encoder.png")),
        (0 if sampled else 2, ("--self", "--query", 3, "--out", "self.png")),
        (2, ("--relevance", "--query", 3, "--out", "relevance.png")),
        (0, ("--query", 3, "--html", "page.html", "--out", "drawn.png")),
    ):
        shown = detr(*look, *options)
        assert shown.code == code, (options, shown.err)


@pytest.mark.slow
def test_evaluation(folder: Path, data: Path, tmp_path: Path, detr: Detr) -> None:
    """Without phrases the classes are those of the data. The metrics are those of pycocotools."""
    shutil.copytree(data, tmp_path / "data")
    judge = Judge(folder)
    names, ids = ["circle", "square", "triangle", "star", "cross"], [1, 2, 3, 4, 5]

    def predict(image: Image.Image) -> Any:
        inputs, output = judge.output(image, names)
        best, index = judge.of_phrases(inputs, output).max(1)
        return box_pairs(best, [ids[label] for label in index.tolist()], judge.boxes(output, image)["boxes"])

    truth, results = truth_of_predictions(tmp_path / "data", predict, every=3)
    assert [(entry["id"], entry["name"]) for entry in truth["categories"]] == list(zip(ids, names, strict=True))
    expected = twelve(truth, results)
    # The fast engine rounds differently, and exchanges detections of nearly equal scores.
    shown = detr("eval", tmp_path / "data", "--weights", folder, "--json", "--device", "cpu", "--engine", "plain").ok()
    assert expected["AR100"] > 0.05
    assert shown.json["metrics"] == pytest.approx(expected, abs=5e-3)
    metrics = detrcli.evaluate(tmp_path / "data", folder, device="cpu").metrics
    assert metrics["AP"] == pytest.approx(expected["AP"], abs=5e-3)


def test_phrases_are_matched_with_classes_by_name(folder: Path, data: Path, detr: Detr) -> None:
    command = ("eval", data, "--weights", folder, "--device", "cpu", "--limit", 2)
    shown = detr(*command, "--text", "Star. a moon.", "--json").ok()
    assert "a moon" in shown.err
    assert "circle" in shown.err
    assert detr(*command, "--text", "a moon").code == 3


@pytest.mark.parametrize("text", [(), ("--text", "star. circle")])
def test_reports(text: tuple[str, ...], data: Path, detr: Detr) -> None:
    detr("eval", data, "--weights", folder_of("owlv2"), *text, "--report", "report", "--device", "cpu").ok()
    assert Path("report/index.html").is_file()


def test_predict_shows_phrases_as_given(folder: Path, image: Path, detr: Detr) -> None:
    call = ("predict", image, "--weights", folder, "--threshold", 0, "--no-images", "--device", "cpu", "--json")
    shown = detr(*call, "--text", " A  Star . cross").ok()
    detections = shown.json["images"][0]["detections"]
    assert {(entry["category_id"], entry["label"]) for entry in detections} <= {(0, "A Star"), (1, "cross")}
    only = detr(*call, "--text", "a star. cross", "--classes", "cross").json["images"][0]["detections"]
    assert {entry["label"] for entry in only} <= {"cross"}


def test_a_resumed_prediction_needs_the_same_phrases(data: Path, detr: Detr) -> None:
    call = ("predict", data / "val", "--weights", folder_of("owlv2"), "--no-images", "--save", "found.jsonl")
    assert detr(*call, "--text", "a star").code == 0
    detr(*call, "--text", "a cross", "--resume").fails(2, "'a star'")


def test_padding() -> None:
    """A batch is padded and masked as by Grounding DINO's processor."""
    folder, several = folder_of("grounding"), list(images())[:2]
    checkpoint, judge = load_checkpoint(str(folder), phrases=PHRASES), Judge(folder)
    inputs = judge.processor(images=several, text=[PHRASES] * 2, return_tensors="pt")
    batch = collate([prepare(image, checkpoint.preprocessing) for image in several])
    assert torch.equal(batch.images, inputs["pixel_values"])
    with torch.no_grad():
        expected, ours = judge.network(**inputs), checkpoint.model()(batch).last
    torch.testing.assert_close(ours.boxes, expected.pred_boxes, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.logits[..., 1], expected.logits[..., 5], atol=1e-4, rtol=1e-4)


def test_another_size() -> None:
    """Position embeddings are interpolated, as transformers can do."""
    detector, judge = detrcli.load(folder_of("owlv2"), "cpu", text=PHRASES, size=96), Judge(folder_of("owlv2"))
    judge.processor.image_processor.size = {"height": 96, "width": 96}
    image = next(images())
    inputs = judge.processor(images=image, text=[PHRASES], return_tensors="pt")
    with torch.no_grad():
        output = judge.network(**inputs, interpolate_pos_encoding=True)
    detections, theirs = detector.predict(image, threshold=0.0), judge.boxes(output, image)
    assert len(detections) == 36
    np.testing.assert_allclose(detections.scores, theirs["scores"], atol=1e-4)
    np.testing.assert_allclose(detections.boxes, theirs["boxes"], atol=0.05)


def test_commands_that_do_not_take_them(folder: Path, data: Path, image: Path, detr: Detr) -> None:
    """Also those that take them, without phrases."""
    for command in (
        ("predict", image, "--weights", folder, "--no-images"),
        ("visualize-attn", image, "--weights", folder),
        ("train", data, "--weights", folder, "--epochs", 1, "--set", "workers=0"),
        ("match-debug", data, "--weights", folder),
        ("explain", image, "--weights", folder),
        ("report", data, "--weights", folder, "--out", "page"),
        ("export", folder, "--format", "onnx", "--out", "model.onnx"),
        ("bench", folder),
    ):
        shown = detr(*command)
        shown.fails(2, "detr predict", "detr eval", "detr visualize-attn", '"a cat. a remote control."')
        assert len(shown.err.strip().splitlines()) <= 3, shown.err
    assert not [path for path in Path().iterdir() if path.is_dir()]


def test_functions_that_do_not_take_them(image: Path) -> None:
    detector = detrcli.load(folder_of("owlv2"), "cpu", text=["a star"])
    assert len(detector.predict(image, threshold=0.0).scores) == 16
    with pytest.raises(UsageError):
        detrcli.walk(image, detector)
    with pytest.raises(UsageError):
        detrcli.match(image, [[0, 0, 9, 9]], ["a star"], detector)


@pytest.mark.parametrize(
    "source", ["detr-r50", "shapes", "torchvision:fcos_resnet50_fpn", "https://a.b/c-12345678.pth", "closed", "w.onnx"]
)
def test_models_with_fixed_classes_take_no_phrases(
    source: str, image: Path, detr: Detr, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error comes before a download."""
    monkeypatch.setattr("detrcli.checkpoints.sources.check_reachable", lambda _: None)
    Path("w.onnx").write_bytes(b"")
    weights = closed_set("conditional") if source == "closed" else source
    detr("predict", image, "--weights", weights, "--text", "a cat", "--no-images").fails(
        2, f"{weights} has a fixed set of classes", "grounding-dino, mm-grounding-dino, owlv2, owlvit"
    )


def test_too_many_tokens(image: Path, detr: Detr) -> None:
    words = ["red", "blue", "circle", "square", "triangle", "star", "cross", "cat", "remote", "control", "a"]
    for name, fits, long, counts in (
        # Two tokens per phrase, and one at both ends.
        ("grounding", ". ".join(words), ". ".join([*words, "squares"]), ("26 tokens", f"at most {MAX_TOKENS}")),
        ("owlv2", "red " * 14, "red " * 15, ("17 tokens", "at most 16")),
    ):
        call = ("predict", image, "--weights", folder_of(name), "--no-images", "--text")
        detr(*call, fits).ok()
        detr(*call, long).fails(2, *counts)


def test_class_names_as_phrases() -> None:
    """Full stops do not separate them, and duplicates are left out."""
    loaded = load_checkpoint(str(folder_of("grounding")), class_names=["St. Star", "cat", " Cat ", "a\ncross?"])
    assert loaded.classes.names.tolist() == ["St. Star", "cat", "a\ncross?"]
    config: Any = loaded.config
    assert [end - first for first, end in config.spans] == [2, 1, 3]
    for folder, empty in ((folder_of("grounding"), "..."), (folder_of("owlv2"), " ")):
        with pytest.raises(UsageError, match=f'the phrase "{empty}"'):
            load_checkpoint(str(folder), class_names=["cat", empty])


def without(folder: Path, place: Path, *names: str) -> Path:
    shutil.copytree(folder, place)
    for name in names:
        (place / name).unlink()
    return place


def test_older_folders(name: str, folder: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    """With the files of the vocabulary instead of the tokenizer, and a separate image processor."""
    older = without(folder, tmp_path / "older", "tokenizer.json", "processor_config.json")
    for file in ("vocab.txt", "vocab.json", "merges.txt"):
        if (folder.parent / file).exists():
            shutil.copy(folder.parent / file, older / file)
    AutoProcessor.from_pretrained(folder).image_processor.save_pretrained(older)
    assert not (older / "processor_config.json").exists()
    loaded = load_checkpoint(str(older), phrases=PHRASES)
    ours, theirs = loaded.config, checkpoint.config
    assert (ours.texts, ours.spans) == (theirs.texts, theirs.spans)
    assert loaded.preprocessing == checkpoint.preprocessing
    (older / "preprocessor_config.json").unlink()
    default = load_checkpoint(str(older), phrases=PHRASES).preprocessing.resize
    if name.startswith("owl"):
        assert default == checkpoint.preprocessing.resize  # its position embeddings are of one size
    else:
        assert (default.side, default.kind) == (800, "bounded-edges")


@pytest.mark.parametrize("key", ["image_processor_type", "feature_extractor_type"])
def test_former_names_of_processors(key: str, tmp_path: Path) -> None:
    place = without(folder_of("owlv2"), tmp_path / "old", "processor_config.json")
    facts = AutoProcessor.from_pretrained(folder_of("owlv2")).image_processor.to_dict()
    del facts["image_processor_type"]
    (place / "preprocessor_config.json").write_text(json.dumps({**facts, key: "Owlv2FeatureExtractor"}))
    expected = load_checkpoint(str(folder_of("owlv2")), phrases=PHRASES).preprocessing
    assert load_checkpoint(str(place), phrases=PHRASES).preprocessing == expected


def test_a_folder_without_a_tokenizer(name: str, folder: Path, tmp_path: Path) -> None:
    files = "vocab.json and merges.txt" if name.startswith("owl") else "vocab.txt"
    with pytest.raises(WeightsError, match=rf"tokenizer\.json or {files}\.$"):
        load_checkpoint(str(without(folder, tmp_path / "bare", "tokenizer.json")), phrases=PHRASES)
