"""Models that look for phrases: what they say is what transformers says, and the phrases are the classes."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import folder_of as closed_set
from families import pictures
from gathering import from_cells, from_points
from here import Detr
from judge import twelve
from phrases import MOST, NAMES, PHRASES, SIDE, TEXT, folder_of
from PIL import Image
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor
from transformers.models.grounding_dino.modeling_grounding_dino import build_label_maps

import detrcli
from detrcli.architectures.adapters.attention import OpenVocabularyInspectable
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.batching import collate
from detrcli.data.make import make_shapes
from detrcli.data.preprocessing import prepare
from detrcli.errors import UsageError, WeightsError
from detrcli.inference.detector import Detector

CPU = torch.device("cpu")


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(name, tmp_path_factory)


@pytest.fixture
def checkpoint(folder: Path) -> Checkpoint:
    return load_checkpoint(str(folder), phrases=PHRASES)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, images=30, size=96, objects=3)
    return folder


class Judge:
    """Transformers' own pipeline."""

    def __init__(self, folder: Path) -> None:
        self.processor: Any = AutoProcessor.from_pretrained(folder)
        self.network: Any = AutoModelForZeroShotObjectDetection.from_pretrained(folder).eval()

    def output(self, image: Image.Image, phrases: list[str]) -> tuple[Any, Any]:
        given = self.processor(images=image, text=[phrases], return_tensors="pt")
        with torch.no_grad():
            return given, self.network(**given)

    def boxes(self, output: Any, image: Image.Image) -> dict[str, Any]:
        (found,) = self.processor.post_process_grounded_object_detection(
            output, threshold=0.0, target_sizes=[(image.height, image.width)]
        )
        return dict(found)

    def of_phrases(self, given: Any, output: Any) -> torch.Tensor:
        """The probability of each phrase, (Q, K): its best token's, by transformers' own map of tokens."""
        scores = output.logits[0].sigmoid()
        if not hasattr(output, "input_ids"):
            return scores
        (map_,) = build_label_maps(output.logits, given["input_ids"])  # (K, T)
        return torch.stack([scores[:, own.bool()].amax(1) for own in map_], 1)


def test_pixels_are_theirs(folder: Path, checkpoint: Checkpoint) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    for image in (*pictures(), Image.new("RGB", (3 * SIDE, SIDE - 1), "red"), Image.new("RGB", (7, 300), "blue")):
        wanted = processor(images=image, text=[PHRASES], return_tensors="pt")["pixel_values"][0]
        assert torch.equal(prepare(image, checkpoint.preprocessing), wanted)


def test_predictions_are_theirs(folder: Path) -> None:
    detector, judge = detrcli.load(folder, "cpu", text=TEXT), Judge(folder)
    assert detector.classes.names.tolist() == PHRASES
    labels, between = set(), 0
    for image in pictures():
        given, output = judge.output(image, PHRASES)
        found, theirs = detector.predict(image, threshold=0.0), judge.boxes(output, image)
        assert (found.queries == np.arange(len(theirs["scores"]))).all()
        if hasattr(output, "input_ids"):  # queries begin at proposals, which may be nearly tied
            found = found.part(order_of(theirs["boxes"].numpy(), found.boxes))
        np.testing.assert_allclose(found.boxes, theirs["boxes"], atol=0.05)
        best, index = judge.of_phrases(given, output).max(1)
        np.testing.assert_allclose(found.scores, best, atol=1e-4)
        assert (found.category_ids == index.numpy()).all()
        # A query's score is theirs, but where what stands between the phrases has the highest.
        of_phrase = np.isclose(found.scores, theirs["scores"], atol=1e-4)
        assert (found.scores[~of_phrase] < theirs["scores"].numpy()[~of_phrase]).all()
        assert of_phrase.sum() > 5
        between += int((~of_phrase).sum())
        labels |= set(found.labels)
    assert len(labels) > 1
    assert (between > 0) == hasattr(output, "input_ids")


def order_of(wanted: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Boxes in the order of those that they are nearest to, one to one."""
    order: np.ndarray = np.abs(boxes[:, None] - wanted[None]).max(-1).argmin(0)
    assert sorted(order) == list(range(len(wanted)))
    return order


def test_labels_are_theirs(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What Grounding DINO's own processor reads off the best token stands in the phrase."""
    folder = folder_of("grounding", tmp_path_factory)
    detector, judge = detrcli.load(folder, "cpu", text=TEXT, engine="plain"), Judge(folder)
    image = next(pictures())
    given, output = judge.output(image, PHRASES)
    found, theirs = detector.predict(image, threshold=0.0), judge.boxes(output, image)
    told = 0
    for query, score in enumerate(theirs["scores"].tolist()):
        if found.scores[query] == pytest.approx(score, abs=1e-5):
            (read,) = judge.processor.post_process_grounded_object_detection(
                output, given["input_ids"], threshold=0.0, text_threshold=score - 1e-6
            )
            assert read["text_labels"][query] in found.labels[query].lower().split()
            told += 1
    assert told > 5


def test_phrases_are_read_as_theirs(folder: Path, checkpoint: Checkpoint) -> None:
    given = AutoProcessor.from_pretrained(folder)(text=[PHRASES], return_tensors="pt")
    config: Any = checkpoint.config
    wanted = [
        tuple(row[mask.bool()].tolist()) for row, mask in zip(given["input_ids"], given["attention_mask"], strict=True)
    ]
    assert list(config.texts) == wanted
    if config.spans:
        read = AutoProcessor.from_pretrained(folder).tokenizer
        own = [read.decode(config.texts[0][first:end]) for first, end in config.spans]
        assert own == [phrase.lower() for phrase in PHRASES]


@torch.no_grad()
def test_every_layer_answers(name: str, folder: Path, checkpoint: Checkpoint) -> None:
    batch = collate([prepare(next(pictures()), checkpoint.preprocessing)])
    model = checkpoint.model()
    output = model(batch)
    judge = Judge(folder)
    given, theirs = judge.output(next(pictures()), PHRASES)
    torch.testing.assert_close(output.last.logits[0].sigmoid(), judge.of_phrases(given, theirs), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.last.boxes, theirs.pred_boxes, atol=1e-5, rtol=1e-5)
    if name.startswith("owl"):
        assert len(output.decoder) == 1
        return
    assert len(output.decoder) == 2
    network: Any = model.network  # one that ends after its first layer says what the first layer of the whole says
    network.model.decoder.layers = network.model.decoder.layers[:1]
    shallow = model(batch).last
    torch.testing.assert_close(output.decoder.boxes[0], shallow.boxes, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.decoder.logits[0], shallow.logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_attention_is_what_the_modules_compute(checkpoint: Checkpoint) -> None:
    model = checkpoint.model()
    inspected = OpenVocabularyInspectable(model)  # type: ignore[arg-type]  # one of theirs
    with torch.inference_mode(), inspected.recorded() as record:
        model(collate([prepare(next(pictures()), checkpoint.preprocessing)]))
    assert inspected.cross
    assert inspected.encoder_layers == 2
    for module in inspected.attentions:
        call = record.calls[module]
        own, _ = call.module(**{**call.given, "output_attentions": True})[:2]
        if hasattr(module, "sampling_offsets"):
            gathered = from_points(module, call.sampled(), dict(call.given))
        else:
            _, shares = call.again()  # (B, heads, A, S)
            torch.testing.assert_close(shares.sum(-1), torch.ones(shares.shape[:-1]), atol=1e-5, rtol=0)
            gathered = from_cells(module, shares, dict(call.given))
        torch.testing.assert_close(gathered, own, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_patch_is_shown_with_its_own_attention(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Query N of OWLv2 is cell N: what it looks at is what the last layer's attention gives that token."""
    checkpoint = load_checkpoint(str(folder_of("owlv2", tmp_path_factory)), phrases=PHRASES)
    model = checkpoint.model()
    inspected = OpenVocabularyInspectable(model)  # type: ignore[arg-type]  # one of theirs
    with torch.inference_mode(), inspected.recorded() as record:
        model(collate([prepare(next(pictures()), checkpoint.preprocessing)]))
    assert record.cells == (4, 4)
    assert (inspected.decoder_layers, inspected.looks_by) == (1, "self-attention in the encoder's last layer")
    _, shares = record.calls[inspected.cross[0]].again()  # (1, heads, 17, 17), the class token first
    wanted = shares[:, :, 6, 1:] / shares[:, :, 6, 1:].sum(-1, keepdim=True)
    torch.testing.assert_close(record.cross(0, [5]).density().flatten(3)[:, 0], wanted)
    torch.testing.assert_close(record.encoder(1, [5]).density(), record.cross(0, [5]).density())
    assert not torch.allclose(record.encoder(0, [5]).density(), record.cross(0, [5]).density())


@pytest.mark.slow
def test_visualize_attn(name: str, folder: Path, data: Path, detr: Detr) -> None:
    picture = data / "val" / "000000.png"
    looked = ("visualize-attn", picture, "--weights", folder, "--text", TEXT)
    shown = detr(*looked, "--query", 3, "--layer", "all", "--raw", "raw.npz", "--out", "cross.png", "--json")
    assert shown.code == 0, shown.err
    raw = np.load("raw.npz")
    np.testing.assert_allclose(raw["cross"].sum((-1, -2)), 1, atol=1e-3)
    assert json.loads(shown.out)["queries"][0]["label"] in PHRASES
    assert detr(*looked, "--encoder", "30,30", "--layer", "all", "--out", "encoder.png").code == 0
    sampled = not name.startswith("owl")
    if sampled:
        np.testing.assert_allclose(raw["weights"].sum((3, 4)), 1, atol=1e-5)
    among = detr(*looked, "--self", "--query", 3, "--out", "self.png")
    assert among.code == (0 if sampled else 2), among.err
    assert sampled or "It can show: cross-attention, encoder attention." in among.err
    assert detr(*looked, "--relevance", "--query", 3, "--out", "relevance.png").code == 2
    assert detr(*looked, "--query", 3, "--html", "page.html", "--out", "drawn.png").code == 0


@pytest.mark.slow
def test_it_is_evaluated_as_pycocotools_would(folder: Path, data: Path, tmp_path: Path, detr: Detr) -> None:
    """Without --text by the names of the data's classes; some of what is said becomes the truth, a little moved."""
    shutil.copytree(data, tmp_path / "data")
    path = tmp_path / "data" / "annotations" / "instances_val.json"
    truth = json.loads(path.read_text())
    names, ids = ([one[key] for one in truth["categories"]] for key in ("name", "id"))
    judge = Judge(folder)
    found: list[dict[str, Any]] = []
    truth["annotations"] = []
    for image in truth["images"]:
        picture = Image.open(tmp_path / "data" / "val" / image["file_name"]).convert("RGB")
        given, output = judge.output(picture, names)
        best, index = judge.of_phrases(given, output).max(1)
        rows = zip(best.tolist(), index.tolist(), judge.boxes(output, picture)["boxes"].tolist(), strict=True)
        for number, (score, label, (x0, y0, x1, y1)) in enumerate(rows):
            one = {"image_id": image["id"], "category_id": ids[label], "bbox": [x0, y0, x1 - x0, y1 - y0]}
            found.append({**one, "score": score})
            if number % 3 == 0:
                moved = [x0 + number % 7, y0 + number % 5, x1 - x0, y1 - y0]
                own = {"id": len(truth["annotations"]) + 1, "iscrowd": 0, "area": (x1 - x0) * (y1 - y0)}
                truth["annotations"].append({**one, **own, "bbox": moved})
    path.write_text(json.dumps(truth))
    wanted = twelve(truth, found)
    shown = detr("eval", tmp_path / "data", "--weights", folder, "--json", "--device", "cpu")
    assert shown.code == 0, shown.err
    assert wanted["AR100"] > 0.05
    assert json.loads(shown.out)["metrics"] == pytest.approx(wanted, abs=5e-3)
    assert detrcli.evaluate(tmp_path / "data", folder, device="cpu").metrics["AP"] == pytest.approx(
        wanted["AP"], abs=5e-3
    )


def test_phrases_and_classes_of_the_data_are_paired_by_name(folder: Path, data: Path, detr: Detr) -> None:
    asked = ("eval", data, "--weights", folder, "--device", "cpu", "--limit", 2)
    shown = detr(*asked, "--text", "Star. a moon.", "--json")
    assert shown.code == 0, shown.err
    assert "classes only in the weights: a moon" in shown.err
    assert "classes only in the data: circle" in shown.err
    nobody = detr(*asked, "--text", "a moon")
    assert nobody.code == 3
    assert "No class of the weights has the name of one of the data's" in nobody.err


def test_why_it_fails(data: Path, detr: Detr, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The report asks the model again, for the same phrases."""
    folder = folder_of("owlv2", tmp_path_factory)
    for text in ((), ("--text", "star. circle")):
        place = f"report{len(text)}"
        shown = detr("eval", data, "--weights", folder, *text, "--report", place, "--device", "cpu")
        assert shown.code == 0, shown.err
        assert (Path(place) / "index.html").is_file()


def test_predict_shows_phrases_as_they_were_written(folder: Path, data: Path, detr: Detr) -> None:
    picture = data / "val" / "000000.png"
    call = ("predict", picture, "--weights", folder, "--threshold", 0, "--no-images", "--device", "cpu")
    shown = detr(*call, "--text", " A  Star . cross", "--json")
    assert shown.code == 0, shown.err
    (image,) = json.loads(shown.out)["images"]
    assert {(one["category_id"], one["label"]) for one in image["detections"]} <= {(0, "A Star"), (1, "cross")}
    only = detr(*call, "--text", "a star. cross", "--classes", "cross", "--json")
    (image,) = json.loads(only.out)["images"]
    assert {one["label"] for one in image["detections"]} <= {"cross"}
    half = detr(*call, "--text", "A Star. cross", "--json", "--precision", "bf16")
    assert half.code == 0, half.err
    (halved,), (whole,) = (json.loads(one.out)["images"] for one in (half, shown))
    best = [max(one["score"] for one in image["detections"]) for image in (halved, whole)]
    assert best[0] == pytest.approx(best[1], abs=0.05)


def test_a_resumed_prediction_has_the_same_phrases(
    data: Path, detr: Detr, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = folder_of("owlv2", tmp_path_factory)
    call = ("predict", data / "val", "--weights", folder, "--no-images", "--save", "found.jsonl")
    assert detr(*call, "--text", "a star").code == 0
    other = detr(*call, "--text", "a cross", "--resume")
    assert other.code == 2
    assert "begun with another text: 'a star'" in other.err


def test_batches_say_what_pictures_say_alone(folder: Path) -> None:
    detector = detrcli.load(folder, "cpu", text=PHRASES, engine="plain")
    several = [*pictures()][:1] * 2 + [*pictures()][2:]
    together = detector.predict(several, threshold=0.0, batch_size=3)
    for found, image in zip(together, several, strict=True):
        alone = detector.predict(image, threshold=0.0)
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=0.01)


def test_padding_is_told(tmp_path_factory: pytest.TempPathFactory) -> None:
    """As Grounding DINO's processor pads a batch."""
    folder = folder_of("grounding", tmp_path_factory)
    weights, judge = load_checkpoint(str(folder), phrases=PHRASES), Judge(folder)
    several = list(pictures())[:2]
    given = judge.processor(images=several, text=[PHRASES] * 2, return_tensors="pt")
    batch = collate([prepare(image, weights.preprocessing) for image in several])
    assert torch.equal(batch.images, given["pixel_values"])
    with torch.no_grad():
        wanted = judge.network(**given)
        found = weights.model()(batch).last
    torch.testing.assert_close(found.boxes, wanted.pred_boxes, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.logits[..., 1], wanted.logits[..., 5], atol=1e-4, rtol=1e-4)


def test_another_size(tmp_path_factory: pytest.TempPathFactory) -> None:
    """OWLv2's positions are interpolated, as transformers does where it is asked to."""
    folder = folder_of("owlv2", tmp_path_factory)
    detector, judge = detrcli.load(folder, "cpu", text=PHRASES, size=96), Judge(folder)
    judge.processor.image_processor.size = {"height": 96, "width": 96}
    image = next(pictures())
    given = judge.processor(images=image, text=[PHRASES], return_tensors="pt")
    with torch.no_grad():
        output = judge.network(**given, interpolate_pos_encoding=True)
    found, theirs = detector.predict(image, threshold=0.0), judge.boxes(output, image)
    assert len(found) == 36
    np.testing.assert_allclose(found.scores, theirs["scores"], atol=1e-4)
    np.testing.assert_allclose(found.boxes, theirs["boxes"], atol=0.05)


TAKERS = "`detr predict`, `detr eval` and `detr visualize-attn`, which alone take them"


def test_what_they_cannot_do_is_said(folder: Path, data: Path, detr: Detr) -> None:
    picture = data / "val" / "000000.png"
    for command in (
        ("predict", picture, "--weights", folder, "--no-images"),
        ("visualize-attn", picture, "--weights", folder),
        ("train", data, "--weights", folder, "--epochs", 1, "--set", "workers=0"),
        ("match-debug", data, "--weights", folder),
        ("explain", picture, "--weights", folder),
        ("report", data, "--weights", folder, "--out", "page"),
        ("export", folder, "--format", "onnx", "--out", "model.onnx"),
        ("bench", folder),
    ):
        shown = detr(*command)
        assert (shown.code, shown.out) == (2, ""), command
        assert len(shown.err.strip().splitlines()) == 1, shown.err
        assert TAKERS in shown.err
        assert '--text "a cat. a remote control."' in shown.err
    assert not [path for path in Path().iterdir() if path.is_dir()]
    engine = detr("predict", picture, "--weights", folder, "--text", TEXT, "--engine", "onnx", "--device", "cpu")
    assert engine.code == 2
    assert "cannot be exported" in engine.err


def test_from_python_what_they_cannot_do_is_said(data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    detector = detrcli.load(folder_of("owlv2", tmp_path_factory), "cpu", text=["a star"])
    picture = data / "val" / "000000.png"
    assert len(detector.predict(picture, threshold=0.0).scores) == 16
    with pytest.raises(UsageError, match="and none that look for phrases"):
        detrcli.walk(picture, detector)
    with pytest.raises(UsageError, match="does not say how its queries are matched"):
        detrcli.match(picture, [[0, 0, 9, 9]], ["a star"], detector)


@pytest.mark.parametrize(
    "source", ["detr-r50", "shapes", "torchvision:fcos_resnet50_fpn", "https://a.b/c-12345678.pth"]
)
def test_models_with_classes_of_their_own_take_no_phrases(source: str, data: Path, detr: Detr) -> None:
    """Before anything is fetched."""
    shown = detr("predict", data / "val" / "000000.png", "--weights", source, "--text", "a cat", "--no-images")
    assert shown.code == 2
    assert f"--text: {source} has classes of its own" in shown.err
    assert "grounding-dino, mm-grounding-dino, owlv2, owlvit" in shown.err


def test_families_with_classes_of_their_own_take_no_phrases(
    data: Path, detr: Detr, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    for source in (closed_set("conditional", tmp_path_factory), tmp_path / "model.onnx"):
        shown = detr("eval", data, "--weights", source, "--text", "a cat")
        assert shown.code == 2
        assert "has classes of its own" in shown.err


def test_too_much_to_read(tmp_path_factory: pytest.TempPathFactory, data: Path, detr: Detr) -> None:
    picture = data / "val" / "000000.png"
    grounding, owl = (folder_of(name, tmp_path_factory) for name in ("grounding", "owlv2"))
    words = ["red", "blue", "circle", "square", "triangle", "star", "cross", "cat", "remote", "control", "a"]
    fits = detr("predict", picture, "--weights", grounding, "--no-images", "--text", ". ".join(words))
    assert fits.code == 0, fits.err  # two tokens each, and one at both ends: as many as it reads
    long = detr("predict", picture, "--weights", grounding, "--no-images", "--text", ". ".join([*words, "squares"]))
    assert (long.code, long.err.count("\n")) == (2, 1)
    assert f"12 phrases are 26 tokens, those between them counted; it reads {MOST} at most" in long.err
    phrase = "red " * 15
    long = detr("predict", picture, "--weights", owl, "--no-images", "--text", phrase)
    assert (long.code, long.err.count("\n")) == (2, 1)
    assert "is 17 tokens, with one at each end; it reads 16 of a phrase at most" in long.err
    assert detr("predict", picture, "--weights", owl, "--no-images", "--text", "red " * 14).code == 0


def test_names_of_classes_that_are_no_phrases(tmp_path_factory: pytest.TempPathFactory) -> None:
    """As data has them: full stops do not part them, and what is there twice is looked for once."""
    source = str(folder_of("grounding", tmp_path_factory))
    loaded = load_checkpoint(source, class_names=["St. Star", "cat", " Cat ", "a\ncross?"])
    assert loaded.classes.names.tolist() == ["St. Star", "cat", "a\ncross?"]
    config: Any = loaded.config
    assert [end - first for first, end in config.spans] == [2, 1, 3]
    with pytest.raises(UsageError, match='nothing to look for in the phrase "..."'):
        load_checkpoint(source, class_names=["cat", "..."])
    with pytest.raises(UsageError, match="nothing to look for in the phrase"):
        load_checkpoint(str(folder_of("owlv2", tmp_path_factory)), class_names=["cat", " "])


def changed(folder: Path, place: Path, *left_out: str) -> Path:
    shutil.copytree(folder, place)
    for name in left_out:
        (place / name).unlink()
    return place


def test_older_folders(name: str, folder: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    """With the files of the vocabulary alone, and the processor by itself."""
    older = changed(folder, tmp_path / "older", "tokenizer.json", "processor_config.json")
    for file in ("vocab.txt", "vocab.json", "merges.txt"):
        if (folder.parent / file).exists():
            shutil.copy(folder.parent / file, older / file)
    AutoProcessor.from_pretrained(folder).image_processor.save_pretrained(older)
    assert not (older / "processor_config.json").exists()
    loaded = load_checkpoint(str(older), phrases=PHRASES)
    ours, theirs = (one.config for one in (loaded, checkpoint))
    assert (ours.texts, ours.spans) == (theirs.texts, theirs.spans)
    assert loaded.preprocessing == checkpoint.preprocessing
    (older / "preprocessor_config.json").unlink()
    default = load_checkpoint(str(older), phrases=PHRASES).preprocessing.resize
    if name.startswith("owl"):
        assert default == checkpoint.preprocessing.resize  # its positions are of one size
    else:
        assert (default.side, default.kind) == (800, "bounded-edges")


@pytest.mark.parametrize("key", ["image_processor_type", "feature_extractor_type"])
def test_processors_by_their_names_of_old(key: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    source = folder_of("owlv2", tmp_path_factory)
    place = changed(source, tmp_path / "old", "processor_config.json")
    facts = AutoProcessor.from_pretrained(source).image_processor.to_dict()
    del facts["image_processor_type"]
    (place / "preprocessor_config.json").write_text(json.dumps({**facts, key: "Owlv2FeatureExtractor"}))
    wanted = load_checkpoint(str(source), phrases=PHRASES).preprocessing
    assert load_checkpoint(str(place), phrases=PHRASES).preprocessing == wanted


def test_a_folder_without_a_tokenizer(name: str, folder: Path, data: Path, tmp_path: Path, detr: Detr) -> None:
    bare = changed(folder, tmp_path / "bare", "tokenizer.json")
    shown = detr("predict", data / "val" / "000000.png", "--weights", bare, "--text", "a cat", "--no-images")
    assert (shown.code, shown.err.count("\n")) == (4, 1)
    files = "vocab.json and merges.txt" if name.startswith("owl") else "vocab.txt"
    assert f"there is no tokenizer in it to read phrases with, neither tokenizer.json nor {files}." in shown.err


def test_folders_that_cannot_be_read(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    source = folder_of("owlv2", tmp_path_factory)

    def other(file: str, **facts: Any) -> str:
        place = changed(source, tmp_path / f"{file}{len(list(tmp_path.iterdir()))}")
        found = json.loads((place / file).read_text())
        for key, value in facts.items():
            part = found["image_processor"] if file == "processor_config.json" else found
            part[key] = {**part[key], **value} if isinstance(value, dict) else value
        (place / file).write_text(json.dumps(found))
        return str(place)

    for folder, said in (
        (other("config.json", text_config={"vocab_size": 100}), "do not belong together"),
        (other("config.json", vision_config={"hidden_size": 48}), "does not load|do not fit"),
        (other("processor_config.json", do_pad=False), "does not pad to a square"),
        (other("tokenizer.json", model="none"), "does not load"),
    ):
        with pytest.raises(WeightsError, match=said):
            load_checkpoint(folder, phrases=PHRASES)


def test_code_in_a_folder_is_not_run(folder: Path, tmp_path: Path) -> None:
    place = changed(folder, tmp_path / "evil")
    own = {
        "config.json": {"AutoConfig": "evil.Config", "AutoModelForZeroShotObjectDetection": "evil.Model"},
        "tokenizer_config.json": {"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]},
        "processor_config.json": {"AutoProcessor": "evil.Processor", "AutoImageProcessor": "evil.Images"},
    }
    for file, classes in own.items():
        facts = json.loads((place / file).read_text())
        (place / file).write_text(json.dumps({**facts, "auto_map": classes, "tokenizer_class": "EvilTokenizer"}))
    (place / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    assert Detector(load_checkpoint(str(place), phrases=PHRASES), CPU).predict(next(pictures()), threshold=0.0)
    assert not (tmp_path / "ran").exists()
