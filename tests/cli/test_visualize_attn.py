"""`detr visualize-attn`: its figures, arrays and pages contain the attention that the model computed."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import opened
from golden_rules import VALUE
from here import Detr, Shown
from PIL import Image
from small import CONFIG, TINY, small_weights

from detrcli.checkpoints.formats.native import save
from detrcli.config import Preprocessing
from detrcli.data.preprocessing import collate, prepare
from detrcli.resize import ShortestEdge

QUERIES = ["--query", 5, "--query", 0, "--query", 8]


@pytest.fixture(params=[CONFIG, TINY], ids=["detr", "detr-tiny"])
def picture(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    save(small_weights(request.param), tmp_path / "w.safetensors")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    save(small_weights(), tmp_path / "w.safetensors")
    Image.linear_gradient("L").resize((90, 60)).convert("RGB").save(tmp_path / "a.png")
    return tmp_path / "a.png"


def attn(detr: Detr, *args: object) -> Shown:
    return detr("visualize-attn", "a.png", "--weights", "w.safetensors", "--device", "cpu", *args).ok()


def test_raw_contains_the_values_of_the_model(detr: Detr, picture: Path, request: pytest.FixtureRequest) -> None:
    attn(detr, *QUERIES, "--layer", "all", "--head", "all", "--raw", "a.npz", "--out", "a.jpg")
    everything = detr("predict", "a.png", "--weights", "w.safetensors", "--threshold", 0, "--no-images", "--json")
    said = everything.json["images"][0]["detections"]
    with np.load("a.npz") as file:
        raw = dict(file)
    config = request.node.callspec.params["picture"]
    checkpoint = small_weights(config)
    model = checkpoint.model()
    pixels = prepare(Image.open(picture).convert("RGB"), Preprocessing(ShortestEdge(64, 106)))
    with checkpoint.inspect(model).recorded() as record, torch.inference_mode():
        model(collate([pixels]))
    assert raw["cross"].dtype == np.float32
    assert raw["cross"].shape == (len(model.decoder.layers), 3, 4, *record.cells)
    for layer, maps in enumerate(raw["cross"]):
        np.testing.assert_allclose(maps, record.cross(layer, [5, 0, 8]).weights[0], rtol=0, atol=VALUE)
    np.testing.assert_allclose(raw["cross"].sum((-2, -1)), 1, rtol=0, atol=1e-5)
    assert raw["layers"].tolist() == list(range(len(model.decoder.layers)))
    assert raw["queries"].tolist() == [5, 0, 8]
    assert raw["image_size"].tolist() == [60, 90]
    np.testing.assert_allclose(raw["boxes"], [said[q]["box"] for q in (5, 0, 8)], rtol=0, atol=1e-2)
    np.testing.assert_allclose(raw["scores"], [said[q]["score"] for q in (5, 0, 8)], rtol=0, atol=1e-5)
    assert raw["labels"].tolist() == [said[q]["label"] for q in (5, 0, 8)]


def test_mean_and_single_heads_of_raw(detr: Detr, small: Path) -> None:
    arrays = {}
    for head in ("all", "mean", "2"):
        attn(detr, "--query", 3, "--head", head, "--raw", f"{head}.npz", "--out", f"{head}.png")
        with np.load(f"{head}.npz") as file:
            arrays[head] = file["cross"]
            assert file["layers"].tolist() == [1]
    assert arrays["all"].shape[:3] == (1, 1, 4)
    np.testing.assert_allclose(arrays["mean"], arrays["all"].mean(2, keepdims=True), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(arrays["2"], arrays["all"][:, :, 2:3])
    assert np.abs(arrays["mean"] - arrays["2"]).max() > 1e-3


def test_json_lists_the_figures(detr: Detr, small: Path) -> None:
    document = attn(detr, *QUERIES, "--layer", "all", "--json", "--raw", "a.npz").json
    assert document["schema"] == "detr.visualize-attn/1"
    assert (document["kind"], document["layers"], document["out"]) == ("decoder", [0, 1], "attention.png")
    with np.load("a.npz") as file:
        cross = file["cross"]
    h, w = document["cells"]
    assert [q["query"] for q in document["queries"]] == [5, 0, 8]
    for i, query in enumerate(document["queries"]):
        assert [m["layer"] for m in query["maps"]] == [0, 1]
        for layer, told in enumerate(query["maps"]):
            map_ = cross[layer, i, 0]
            assert told["most"] == pytest.approx(map_.max(), abs=1e-5)
            row, column = np.unravel_index(map_.argmax(), map_.shape)
            x, y = told["brightest"]
            assert (int(y / 60 * h), int(x / 90 * w)) == (row, column)
        assert query["maps"][-1]["box"] == query["box"]
        assert query["maps"][0]["box"] != query["box"]


def test_default_queries_are_those_of_predict(detr: Detr, small: Path) -> None:
    every = detr("predict", "a.png", "--weights", "w.safetensors", "--threshold", 0, "--no-images", "--json")
    scores = [d["score"] for d in every.json["images"][0]["detections"]]
    threshold = sorted(scores)[4] - 1e-4
    kept = detr(
        "predict", "a.png", "--weights", "w.safetensors", "--threshold", threshold, "--no-images", "--json"
    ).json["images"][0]["detections"]
    drawn = attn(detr, "--threshold", threshold, "--json").json["queries"]
    assert [(d["query"], d["label"]) for d in drawn] == [(d["query"], d["label"]) for d in kept]
    for ours, theirs in zip(drawn, kept, strict=True):  # by the plain engine, and by the fast one
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-4)
        assert ours["box"] == pytest.approx(theirs["box"], abs=0.01)
    assert 1 < len(kept) < 9
    shown = detr("visualize-attn", "a.png", "--weights", "w.safetensors", "--threshold", 1)
    shown.fails(2, f"query {np.argmax(scores)}")


def test_query_without_detection(detr: Detr, tmp_path: Path, small: Path) -> None:
    checkpoint = small_weights()
    bias = torch.tensor([0.0, 0.0, 0.0, 9.0])  # "no object" wins everywhere
    save(replace(checkpoint, tensors={**checkpoint.tensors, "class_head.bias": bias}), tmp_path / "w.safetensors")
    assert "no object, at best" in attn(detr, "--query", 2).out
    assert attn(detr, "--query", 2, "--json").json["queries"][0]["nothing"] is True


def test_encoder_maps_of_pixels(detr: Detr, small: Path) -> None:
    shown = attn(detr, "--encoder", "0,0", "--encoder", "89.5,59", "--head", "all", "--raw", "a.npz", "--json").json
    h, w = shown["cells"]
    assert (shown["kind"], shown["layers"]) == ("encoder", [0])
    assert [point["cell"] for point in shown["points"]] == [0, h * w - 1]
    with np.load("a.npz") as file:
        assert file["encoder"].shape == (1, 2, 4, h, w)
        np.testing.assert_allclose(file["encoder"].sum((-2, -1)), 1, rtol=0, atol=1e-5)


def test_self_attention_of_queries(detr: Detr, picture: Path, request: pytest.FixtureRequest) -> None:
    shown = attn(detr, *QUERIES, "--self", "--layer", "all", "--raw", "a.npz", "--json").json
    with np.load("a.npz") as file:
        among = file["self"]  # (L, 1, Q, Q)
    assert among.shape[1:] == (1, 9, 9)
    np.testing.assert_allclose(among.sum(-1), 1, rtol=0, atol=1e-5)
    published = request.node.callspec.params["picture"] is CONFIG
    for pair in shown["pairs"]:
        shares = among[pair["layer"], 0, pair["query"]]
        assert [item["query"] for item in pair["at"]] == np.argsort(-shares, kind="stable")[:5].tolist()
        assert pair["at"][0]["share"] == pytest.approx(shares.max(), abs=1e-5)
        # Contents start at zero in the published model alone.
        assert pair["effect"] is not (published and pair["layer"] == 0)
    text = attn(detr, *QUERIES, "--self", "--layer", 0, "--out", "b.png").out
    assert ("no effect" in text) is published


def test_relevance_beside_attention(detr: Detr, picture: Path) -> None:
    shown = attn(detr, *QUERIES, "--relevance", "--raw", "a.npz", "--json").json
    with np.load("a.npz") as file:
        np.testing.assert_allclose(file["relevance"].sum((-2, -1)), 1, rtol=0, atol=1e-5)
        assert file["cross"].shape == (1, 3, 1, *file["relevance"].shape[1:])
        for i, query in enumerate(shown["queries"]):
            assert query["maps"]["relevance"]["most"] == pytest.approx(file["relevance"][i].max(), abs=1e-5)
            assert query["maps"]["attention"]["most"] == pytest.approx(file["cross"][0, i, 0].max(), abs=1e-5)
    assert "shares_hidden" not in shown


@pytest.mark.slow
def test_faithfulness_with_masks(detr: Detr, small: Path) -> None:
    (said,) = attn(detr, "--query", 3, "--json", "--out", "b.png").json["queries"]
    x0, y0, x1, y1 = np.array(said["box"]).clip(0, [90, 60, 90, 60]).round().tolist()
    corners = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    coco = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "segmentation": corners},
            {"image_id": 1, "category_id": 2, "segmentation": corners},
        ],
        "categories": [{"id": 1, "name": "other"}, {"id": 2, "name": said["label"].upper()}],
    }
    Path("masks.json").write_text(json.dumps(coco))
    args = ["--query", 3, "--faithfulness", "--masks", "masks.json"]
    (query,) = attn(detr, *args, "--json").json["queries"]
    assert set(query["maps"]) == {"attention", "relevance", "random"}
    for name, told in query["maps"].items():
        assert told["deletion"][0] == pytest.approx(said["score"], abs=1e-4)
        assert told["insertion"][-1] == pytest.approx(said["score"], abs=1e-4)
        assert told["deletion"][-1] == pytest.approx(told["insertion"][0], abs=1e-5)
        assert 0 < told["deletion_area"] < 1
        if name != "random":  # the mask is the box, but for what is rounded
            assert told["in_mask"] == pytest.approx(told["in_box"], abs=0.05)
    text = attn(detr, *args, "--out", "c.png").out
    assert "in its mask" in text
    assert "Relevance beats attention for" in text


@pytest.mark.slow
def test_html_page_holds_all_layers_and_heads(detr: Detr, small: Path) -> None:
    shown = attn(detr, *QUERIES, "--html", "a.html", "--json").json
    assert shown["html"] == "a.html"
    with opened(Path("a.html")) as page:
        page.wait_for_selector("body[data-ready=yes]")
        assert page.evaluate("viewer.attention.queries.length") == 3
        assert page.locator("select option").count() == 5
        assert "1 of 0 to 1" in page.inner_text("output >> nth=0")
        last = page.inner_text(".said")
        page.keyboard.press("ArrowDown")
        assert page.inner_text(".said") != last
        assert shown["queries"][0]["label"] in last


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--layer", "-1"], "layer -1"),
        (["--head", "four"], "head four"),
        (["--encoder", "nan,1"], "--encoder nan,1"),
        (["--encoder", "1,1", "--query", 1], "--query"),
        (["--self", "--relevance"], "--self and --relevance"),
        (["--relevance", "--layer", "all"], "all"),
        (["--masks", "a.json"], "--faithfulness"),
        (["--html", "a.html", "--encoder", "1,1"], "--html"),
        (["--html", "b.png", "--out", "b.png"], "b.png"),
        (["--html", "b.jpg"], ".html"),
        (["--out", "a.png"], "a.png"),
        (["--out", "a.png", "--overwrite"], "a.png"),
        (["--raw", "w.npz", "--weights", "w.npz", "--overwrite"], "w.npz"),
    ],
)
def test_usage_errors(detr: Detr, small: Path, args: list[object], named: str) -> None:
    Path("w.safetensors").rename("w.npz") if "w.npz" in args else None
    before = {path: path.read_bytes() for path in Path().iterdir()}
    detr("visualize-attn", "a.png", "--weights", "w.safetensors", *args).fails(2, named)
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def test_a_pixel_outside_is_an_error_before_weights_are_loaded(detr: Detr, small: Path) -> None:
    Path("broken.safetensors").write_bytes(b"no weights")
    asked = ["visualize-attn", "a.png", "--weights", "broken.safetensors"]
    assert detr(*asked, "--encoder", "1,1").code == 4
    assert detr(*asked, "--encoder", "90,0").code == 2


def test_default_outputs_take_the_next_number(detr: Detr, small: Path) -> None:
    for name in ("attention.png", "attention-2.png"):
        assert name in attn(detr, "--query", 1).err
        with Image.open(name) as drawn:
            assert drawn.width > 300
