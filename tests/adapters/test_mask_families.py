"""Models that classify masks: what they say is what transformers says, and what they cannot do is said."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import CLASSES, pictures
from families import folder_of as detector_folder
from here import Detr
from judge import twelve
from mask_families import NAMES, QUERIES, folder_of, processor_of
from PIL import Image
from pycocotools import mask as rle
from transformers import AutoModelForUniversalSegmentation

import detrcli
from detrcli.checkpoints.coco import NAMES as THINGS
from detrcli.checkpoints.coco import PANOPTIC_NAMES, UNUSED
from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.batching import collate
from detrcli.data.make import make_shapes
from detrcli.data.preprocessing import prepare
from detrcli.errors import UsageError, WeightsError
from detrcli.inference.detector import Detector
from detrcli.segmentation.maps import MapRequest, PanopticMap, SemanticMap

CPU = torch.device("cpu")


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(name, tmp_path_factory)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    next(pictures()).save(tmp_path / "a.png")
    return tmp_path / "a.png"


class Judge:
    """Transformers' own pipeline."""

    def __init__(self, name: str, folder: Path) -> None:
        self.network: Any = AutoModelForUniversalSegmentation.from_pretrained(folder).eval()
        self.processor = processor_of(name)

    @torch.no_grad()
    def output(self, image: Image.Image) -> Any:
        given = self.processor(images=image, return_tensors="pt")["pixel_values"]
        # In memory as ours has it, on which the last bits of a convolution hang.
        return self.network(given.contiguous(memory_format=torch.channels_last))

    def instances(self, image: Image.Image, threshold: float) -> list[tuple[float, int, np.ndarray]]:
        """Score, class and mask of each."""
        (found,) = self.processor.post_process_instance_segmentation(
            self.output(image), threshold=threshold, target_sizes=[image.size[::-1]], return_binary_maps=True
        )
        return [
            (one["score"], one["label_id"], mask.bool().numpy())
            for one, mask in zip(found["segments_info"], found["segmentation"], strict=True)
        ]


def test_pixels_are_theirs(name: str, folder: Path) -> None:
    weights, processor = load_checkpoint(str(folder)), processor_of(name)
    for image in (*pictures(), Image.new("RGB", (33, 100), "red"), Image.new("RGB", (301, 64), "blue")):
        wanted = processor(images=image, return_tensors="pt")["pixel_values"][0]
        assert torch.equal(prepare(image, weights.preprocessing), wanted)


@pytest.mark.parametrize(
    "changes",
    [
        {"size_divisor": 0},
        {"size_divisor": 20},
        {"size": {"height": 70, "width": 50}},
        {"size": {"max_height": 80, "max_width": 90}, "size_divisor": 0},
    ],
)
def test_sizes_are_theirs(changes: dict[str, Any], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    shutil.copytree(folder_of("mask2former", tmp_path_factory), tmp_path / "other")
    processor = processor_of("mask2former", **changes)
    processor.save_pretrained(tmp_path / "other")
    checkpoint = load_checkpoint(str(tmp_path / "other"))
    for height in (37, 64, 90, 97, 151, 223):
        for width in (36, 45, 96, 150, 181, 301):
            image = Image.new("RGB", (width, height))
            wanted = processor(images=image, return_tensors="pt")["pixel_values"].shape[2:]
            assert prepare(image, checkpoint.preprocessing).shape[1:] == wanted, (height, width)


def test_instances_are_theirs(name: str, folder: Path) -> None:
    detector, judge = Detector(load_checkpoint(str(folder)), CPU, engine="plain"), Judge(name, folder)
    assert detector.classes.names.tolist() == list(CLASSES.values())
    seen = set()
    for image in pictures():
        found, told = detector.predict(image, threshold=0.0), judge.instances(image, 0.0)
        assert found.masks is not None
        assert len(found) == len(told) > 5
        for row, mask in enumerate(found.masks):
            near = [
                other for score, label, other in told
                if label == found.category_ids[row] and abs(score - found.scores[row]) < 1e-4
            ]  # fmt: skip
            assert any((mask == other).all() for other in near)
            rows, columns = np.nonzero(mask)
            assert found.boxes[row].tolist() == [
                columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            ]  # fmt: skip
        np.testing.assert_allclose(np.sort(found.scores), sorted(score for score, *_ in told), atol=1e-4)
        assert len(detector.predict(image, threshold=0.3)) == len(judge.instances(image, 0.3))
        seen |= set(found.labels)
    assert len(seen) > 2


def test_maps_are_theirs(name: str, folder: Path) -> None:
    detector, judge = Detector(load_checkpoint(str(folder)), CPU, engine="plain"), Judge(name, folder)
    images, segments = list(pictures()), 0
    streams = [
        detector.stream(images, maps=asked)
        for asked in (MapRequest("panoptic"), MapRequest("panoptic", 0.2), MapRequest("semantic"))
    ]
    for image, usual, low, semantic in zip(images, *streams, strict=True):
        output, size = judge.output(image), [image.size[::-1]]
        for seen, asked in ((usual, {}), (low, {"threshold": 0.2})):
            (wanted,) = judge.processor.post_process_panoptic_segmentation(
                output, target_sizes=size, label_ids_to_fuse=set(), **asked
            )
            assert isinstance(seen.map, PanopticMap)
            assert seen.detections is None
            told = wanted["segments_info"]
            assert [(one.id, one.category_id) for one in seen.map.segments] == [
                (one["id"], one["label_id"]) for one in told
            ]
            np.testing.assert_allclose(
                [one.score for one in seen.map.segments], [one["score"] for one in told], atol=1e-4
            )
            np.testing.assert_array_equal(seen.map.ids, wanted["segmentation"].clamp(min=0))
            segments += len(told)
        (classes,) = judge.processor.post_process_semantic_segmentation(output, target_sizes=size)
        assert isinstance(semantic.map, SemanticMap)
        np.testing.assert_array_equal(semantic.map.ids, classes)
    assert segments > 5


@torch.no_grad()
def test_fast_and_in_batches_it_says_the_same(folder: Path) -> None:
    """But for pixels on the edge of a mask."""
    checkpoint = load_checkpoint(str(folder))
    batch = collate([prepare(image, checkpoint.preprocessing) for image in [*pictures()][:1] * 2])
    plain = checkpoint.model()(batch).last
    fast = Detector(checkpoint, CPU, engine="fast").engine(batch)
    torch.testing.assert_close(fast.logits, plain.logits, atol=1e-4, rtol=1e-4)
    assert plain.masks is not None
    assert fast.masks is not None
    every = torch.arange(QUERIES)
    for image in (0, 1):
        of = torch.full_like(every, image)
        torch.testing.assert_close(fast.masks(of, every), plain.masks(of, every), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(plain.boxes[0], plain.boxes[1], atol=1e-6, rtol=0)


def test_it_is_evaluated_as_pycocotools_would(name: str, folder: Path, tmp_path: Path, detr: Detr) -> None:
    """Their pipeline, picture by picture, and pycocotools in the plainest way, of boxes around masks and of masks.

    What a random network says becomes the ground truth in part, a little moved: so there is something to find.
    """
    make_shapes(tmp_path / "data", images=16, size=64, objects=3)
    path = tmp_path / "data" / "annotations" / "instances_val.json"
    truth = json.loads(path.read_text())
    judge = Judge(name, folder)
    ids = {one["name"]: one["id"] for one in truth["categories"]}
    found: list[dict[str, Any]] = []
    truth["annotations"] = []

    def entry(image: dict[str, Any], label: int, mask: np.ndarray) -> dict[str, Any]:
        runs = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
        return {
            "image_id": image["id"],
            "category_id": ids[CLASSES[label]],
            "bbox": rle.toBbox(runs).tolist(),
            "segmentation": {**runs, "counts": runs["counts"].decode()},
        }

    for image in truth["images"]:
        shown = Image.open(tmp_path / "data" / "val" / image["file_name"]).convert("RGB")
        for number, (score, label, mask) in enumerate(judge.instances(shown, 0.0)):
            found.append({**entry(image, label, mask), "score": score})
            moved = np.roll(mask, (number % 3, number % 5), (0, 1))
            if number % 3 == 0 and moved.any():
                own = {"id": len(truth["annotations"]) + 1, "iscrowd": 0, "area": int(moved.sum())}
                truth["annotations"].append({**entry(image, label, moved), **own})
    path.write_text(json.dumps(truth))
    shown = detr("eval", tmp_path / "data", "--weights", folder, "--json", "--device", "cpu")
    assert shown.code == 0, shown.err
    bare = [{key: value for key, value in one.items() if key != "bbox"} for one in found]
    boxes, masks = twelve(truth, found), twelve(truth, bare, kind="segm")
    assert boxes["AR100"] > 0.05
    assert shown.json["metrics"] == pytest.approx(boxes, abs=5e-3)
    assert shown.json["masks"] == pytest.approx(masks, abs=5e-3)


def test_predict_on_the_command_line(folder: Path, picture: Path, detr: Detr) -> None:
    asked = ("predict", picture, "--weights", folder, "--device", "cpu")
    shown = detr(*asked, "--threshold", 0.1, "--json", "--out", "drawn")
    assert shown.code == 0, shown.err
    found = shown.json["images"][0]["detections"]
    assert found
    for one in found:
        x, y, w, h = rle.toBbox(one["mask"]).tolist()
        assert one["box"] == [x, y, x + w, y + h]
    assert len(found) == len(detrcli.load(folder, "cpu").predict(str(picture), threshold=0.1))
    assert Path("drawn/a.png").is_file()

    coco = detr(*asked, "--threshold", 0.1, "--format", "coco", "--no-images")
    assert [one["segmentation"] for one in coco.json] == [one["mask"] for one in found]
    panoptic = detr(*asked, "--format", "panoptic", "--threshold", 0.2, "--out", "panoptic")
    assert panoptic.code == 0, panoptic.err
    assert json.loads(Path("panoptic/panoptic.json").read_text()) == panoptic.json
    assert panoptic.json["annotations"][0]["segments_info"]
    assert Path("panoptic/a.png").is_file()


def test_semantic_maps_and_their_file(name: str, folder: Path, picture: Path, detr: Detr) -> None:
    """A PNG whose grey levels are the ids of classes, and a JSON of what is where."""
    Image.open(picture).rotate(90, expand=True).save("b.png")
    asked = ("predict", picture, "b.png", "--weights", folder, "--format", "semantic")
    shown = detr(*asked, "--out", "out")
    assert shown.code == 0, shown.err
    document = shown.json
    assert json.loads(Path("out/semantic.json").read_text()) == document
    assert [one["name"] for one in document["categories"]] == list(CLASSES.values())
    judge = Judge(name, folder)
    for file, annotation in zip(("a.png", "b.png"), document["annotations"], strict=True):
        image = Image.open(file).convert("RGB")
        (wanted,) = judge.processor.post_process_semantic_segmentation(
            judge.output(image), target_sizes=[image.size[::-1]]
        )
        with Image.open(Path("out/semantic", annotation["file_name"])) as map_:
            assert map_.mode == "L"
            pixels = np.asarray(map_)
        assert (pixels == wanted.numpy()).mean() > 0.999  # the fast engine rounds otherwise
        drawn = dict(zip(*(part.tolist() for part in np.unique(pixels, return_counts=True)), strict=True))
        assert drawn == {one["category_id"]: one["area"] for one in annotation["segments_info"]}
        assert Path("out", file).is_file()
    assert detr(*asked, "--out", "one", "--no-images").code == 0
    assert not Path("one/a.png").exists()


@pytest.mark.parametrize("option", [("--threshold", 0.5), ("--classes", "star")])
def test_semantic_maps_leave_nothing_out(
    option: tuple[str, Any], picture: Path, detr: Detr, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = folder_of("maskformer", tmp_path_factory)
    shown = detr("predict", picture, "--weights", folder, "--format", "semantic", *option)
    assert shown.code == 2
    assert "leave out --threshold and --classes" in shown.err


COMMANDS: dict[str, tuple[Any, ...]] = {
    "train": ("train", "data", "--epochs", 1, "--set", "workers=0", "--weights"),
    "visualize-attn": ("visualize-attn", "a.png", "--weights"),
    "match-debug": ("match-debug", "data", "--weights"),
    "explain": ("explain", "a.png", "--weights"),
    "explain --html": ("explain", "a.png", "--html", "x.html", "--weights"),
    "report": ("report", "data", "--weights"),
    "eval --report": ("eval", "data", "--report", "report", "--weights"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, images=4, size=64, objects=2)
    return folder


@pytest.mark.parametrize("case", COMMANDS)
def test_what_other_commands_say(
    case: str, picture: Path, data: Path, detr: Detr, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = folder_of("mask2former", tmp_path_factory)
    shown = detr(*(data if part == "data" else part for part in COMMANDS[case]), folder)
    assert shown.code == 2, shown.err
    assert shown.err.splitlines() == [
        "detr: Mask2Former has masks and no boxes: `detr predict`, `detr eval` and `detr bench` alone take it."
    ]
    assert {path.name for path in Path().iterdir()} == {"a.png"}


def test_what_is_computed_in_one_way_alone(picture: Path, detr: Detr, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = folder_of("maskformer", tmp_path_factory)
    exported = detr("export", folder, "--format", "onnx", "--out", "x.onnx")
    compiled = detr("predict", picture, "--weights", folder, "--engine", "compiled")
    for shown in (exported, compiled):
        assert shown.code == 2
        assert "a mask head" in shown.err
        assert "plain" in shown.err


def changed(source: Path, place: Path, file: str = "config.json", **facts: Any) -> str:
    shutil.copytree(source, place)
    path = place / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))
    return str(place)


@pytest.mark.parametrize(
    ("file", "facts", "said"),
    [
        ("config.json", {"model_type": "oneformer"}, "of type 'oneformer'; read are .*mask2former, maskformer"),
        ("config.json", {"quantization_config": {"bits": 8}}, "quantised"),
        ("config.json", {"num_queries": 3}, "the tensors do not fit|does not load"),
        ("config.json", {"encoder_layers": 2_000_000}, "it is at most"),
        ("preprocessor_config.json", {"pad_size": {"height": 200, "width": 200}}, "pads or cuts"),
        ("preprocessor_config.json", {"size": {"shortest_edge": 60}}, "no size that is read|does not load"),
        ("preprocessor_config.json", {"do_resize": False}, "not resized"),
        ("preprocessor_config.json", {"size": {"max_height": 60, "max_width": 60}}, "no size that is read"),
    ],
)
def test_what_is_not_read_is_said(
    file: str, facts: dict[str, Any], said: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = changed(folder_of("mask2former", tmp_path_factory), tmp_path / "changed", file, **facts)
    with pytest.raises(WeightsError, match=said):
        load_checkpoint(place)


def test_code_in_a_folder_is_not_run(folder: Path, tmp_path: Path) -> None:
    own = {"AutoConfig": "evil.Config", "AutoModelForUniversalSegmentation": "evil.Model"}
    place = changed(folder, tmp_path / "evil", auto_map=own)
    (tmp_path / "evil" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    load_checkpoint(place)
    assert not (tmp_path / "ran").exists()


def test_stuff_is_known_by_cocos_names(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Of a folder's names those of COCO's panoptic classes, in whatever order; of others nobody says it."""
    folder = folder_of("mask2former", tmp_path_factory)
    named = ["sky-other-merged", "person", "LABEL_2", "grass-merged", "dog"]
    classes = load_checkpoint(changed(folder, tmp_path / "a", id2label=dict(enumerate(named)))).classes
    assert classes.things is not None
    assert classes.things[[0, 1, 3, 4]].tolist() == [False, True, False, True]
    for others in ([*named[:4], "unicorn"], ["person", "dog", "cat", "bird", "cow"]):
        place = changed(folder, tmp_path / others[-1], id2label=dict(enumerate(others)))
        assert load_checkpoint(place).classes.things is None
    assert len(set(PANOPTIC_NAMES) - set(THINGS)) == 53
    assert UNUSED in THINGS


def test_without_a_processor_the_familys_own(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    shutil.copytree(folder_of("maskformer", tmp_path_factory), tmp_path / "bare")
    (tmp_path / "bare" / "preprocessor_config.json").unlink()
    rule = load_checkpoint(str(tmp_path / "bare")).preprocessing.resize
    assert (rule.kind, rule.side) == ("raised-edges", 800)
    assert rule.place(480, 640).width % 32 == 0


@pytest.mark.slow
def test_half_the_precision(folder: Path, picture: Path, detr: Detr) -> None:
    asked = ("predict", picture, "--weights", folder, "--threshold", 0, "--no-images", "--json")
    shown = detr(*asked, "--device", "cpu", "--precision", "bf16")
    assert shown.code == 0, shown.err
    (halved,), (whole,) = (one.json["images"] for one in (shown, detr(*asked, "--device", "cpu")))
    best = [max(one["score"] for one in image["detections"]) for image in (halved, whole)]
    assert best[0] == pytest.approx(best[1], abs=0.1)


def test_maps_of_models_without_masks(tmp_path_factory: pytest.TempPathFactory) -> None:
    detector = detrcli.load(detector_folder("conditional", tmp_path_factory), "cpu")
    with pytest.raises(UsageError, match="no mask head; --format semantic needs one"):
        next(detector.stream([], maps=MapRequest("semantic")))
