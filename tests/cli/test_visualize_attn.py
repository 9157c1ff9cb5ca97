"""`detr visualize-attn`: its figures, arrays and pages contain the attention that the model computed."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import opened
from here import Detr, Shown, all_detections
from PIL import Image
from small import CONFIG, TINY, noise, small_weights

from detrcli.checkpoints.formats.native import save
from detrcli.config import ModelConfig

QUERIES = ["--query", 5, "--query", 0, "--query", 8]


@pytest.fixture(params=[CONFIG, TINY], ids=["detr", "detr-tiny"])
def config(tmp_path: Path, request: pytest.FixtureRequest) -> ModelConfig:
    """The config of the weights beside the image."""
    save(small_weights(request.param), tmp_path / "w.safetensors")
    noise().save(tmp_path / "a.png")
    config: ModelConfig = request.param
    return config


@pytest.fixture
def small(tmp_path: Path) -> Path:
    save(small_weights(), tmp_path / "w.safetensors")
    Image.linear_gradient("L").resize((90, 60)).convert("RGB").save(tmp_path / "a.png")
    return tmp_path / "a.png"


def attn(detr: Detr, *args: object) -> Shown:
    return detr("visualize-attn", "a.png", "--weights", "w.safetensors", "--device", "cpu", *args).ok()


def test_raw_contains_all_heads_and_layers(detr: Detr, config: ModelConfig) -> None:
    attn(detr, *QUERIES, "--layer", "all", "--head", "all", "--raw", "a.npz", "--out", "a.jpg")
    every = all_detections(detr, "a.png", "w.safetensors")
    with np.load("a.npz") as file:
        raw = dict(file)
    layers = config.decoder_layers
    assert raw["cross"].dtype == np.float32
    assert raw["cross"].shape[:3] == (layers, 3, 4)
    np.testing.assert_allclose(raw["cross"].sum((-2, -1)), 1, rtol=0, atol=1e-5)
    assert raw["layers"].tolist() == list(range(layers))
    assert raw["queries"].tolist() == [5, 0, 8]
    assert raw["image_size"].tolist() == [60, 90]
    np.testing.assert_allclose(raw["boxes"], [every[q]["box"] for q in (5, 0, 8)], rtol=0, atol=1e-2)
    np.testing.assert_allclose(raw["scores"], [every[q]["score"] for q in (5, 0, 8)], rtol=0, atol=1e-5)
    assert raw["labels"].tolist() == [every[q]["label"] for q in (5, 0, 8)]
    attn(detr, "--query", 5, "--head", 2, "--raw", "b.npz", "--out", "b.jpg")
    with np.load("b.npz") as file:
        assert file["layers"].tolist() == [layers - 1]
        np.testing.assert_allclose(file["cross"], raw["cross"][-1:, :1, 2:3], rtol=0, atol=1e-7)


def test_json_lists_the_figures(detr: Detr, small: Path) -> None:
    document = attn(detr, *QUERIES, "--layer", "all", "--json", "--raw", "a.npz").json
    assert document["schema"] == "detr.visualize-attn/1"
    assert (document["kind"], document["layers"], document["out"]) == ("decoder", [0, 1], "attention.png")
    with np.load("a.npz") as file:
        cross = file["cross"]
    assert list(cross.shape[-2:]) == document["cells"]
    assert [q["query"] for q in document["queries"]] == [5, 0, 8]
    for i, query in enumerate(document["queries"]):
        assert [m["layer"] for m in query["maps"]] == [0, 1]
        assert [m["most"] for m in query["maps"]] == pytest.approx(cross[:, i, 0].max((1, 2)), abs=1e-5)
        assert query["maps"][0]["box"] != query["box"]


def test_default_queries_are_those_of_predict(detr: Detr, small: Path) -> None:
    every = sorted(all_detections(detr, "a.png", "w.safetensors"), key=lambda detection: -detection["score"])
    drawn = attn(detr, "--threshold", every[4]["score"] - 1e-4, "--json").json["queries"]
    assert [(d["query"], d["label"]) for d in drawn] == [(d["query"], d["label"]) for d in every[:5]]
    for ours, theirs in zip(drawn, every[:5], strict=True):  # by the plain engine, and by the fast one
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-4)
        assert ours["box"] == pytest.approx(theirs["box"], abs=0.01)
    shown = detr("visualize-attn", "a.png", "--weights", "w.safetensors", "--threshold", 1)
    shown.fails(2, f"query {every[0]['query']}")


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


def test_self_attention_of_queries(detr: Detr, config: ModelConfig) -> None:
    shown = attn(detr, *QUERIES, "--self", "--layer", "all", "--raw", "a.npz", "--json").json
    with np.load("a.npz") as file:
        among = file["self"]  # (L, 1, Q, Q)
    assert among.shape[1:] == (1, 9, 9)
    np.testing.assert_allclose(among.sum(-1), 1, rtol=0, atol=1e-5)
    published = config is CONFIG
    for pair in shown["pairs"]:
        shares = among[pair["layer"], 0, pair["query"]]
        assert [item["query"] for item in pair["at"]] == np.argsort(-shares, kind="stable")[:5].tolist()
        assert pair["at"][0]["share"] == pytest.approx(shares.max(), abs=1e-5)
        # Contents start at zero in the published model alone.
        assert pair["effect"] is not (published and pair["layer"] == 0)
    text = attn(detr, *QUERIES, "--self", "--layer", 0, "--out", "b.png").out
    assert ("no effect" in text) is published


def test_relevance_beside_attention(detr: Detr, config: ModelConfig) -> None:
    document = attn(detr, *QUERIES, "--relevance", "--raw", "a.npz", "--json").json
    assert {frozenset(query["maps"]) for query in document["queries"]} == {frozenset({"attention", "relevance"})}
    with np.load("a.npz") as file:
        assert file["cross"].shape == (1, 3, 1, *file["relevance"].shape[1:])


@pytest.mark.slow
def test_faithfulness_with_masks(detr: Detr, small: Path) -> None:
    """The mask is the box of the query, and belongs to its class; that of the other class does not."""
    (query,) = attn(detr, "--query", 3, "--json", "--out", "b.png").json["queries"]
    x0, y0, x1, y1 = np.array(query["box"]).clip(0, [90, 60, 90, 60]).round().tolist()
    corners = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    coco = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"image_id": 1, "category_id": i, "segmentation": corners} for i in (1, 2)],
        "categories": [{"id": 1, "name": "other"}, {"id": 2, "name": query["label"].upper()}],
    }
    Path("masks.json").write_text(json.dumps(coco))
    args = ["--query", 3, "--faithfulness", "--masks", "masks.json"]
    (query,) = attn(detr, *args, "--json").json["queries"]
    assert set(query["maps"]) == {"attention", "relevance", "random"}
    for name in ("attention", "relevance"):
        assert query["maps"][name]["in_mask"] == pytest.approx(query["maps"][name]["in_box"], abs=0.05)
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
