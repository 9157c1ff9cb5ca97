"""Attention of mask heads against a softmax written out, and the masks of predict."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from here import Detr
from PIL import Image
from small import CONFIG, masked_weights, noise, small_weights

from detrcli.architectures import preset
from detrcli.checkpoints.formats.native import save
from detrcli.data.preprocessing import collate, prepare
from detrcli.structures import Batch

QUERIES = ["--query", 5, "--query", 0]


@pytest.fixture
def image(tmp_path: Path) -> Image.Image:
    image = noise()
    image.save(tmp_path / "a.png")
    save(masked_weights(), tmp_path / "w.safetensors")
    save(small_weights(CONFIG), tmp_path / "boxes.safetensors")
    return image


def attention(detr: Detr, *args: object) -> tuple[dict[str, np.ndarray], Any]:
    """Return the arrays and the document of the command."""
    shown = detr(
        "visualize-attn", "a.png", "--weights", "w.safetensors", "--mask-head", "--raw", "a.npz", "--overwrite",
        "--out", "a.jpg", "--device", "cpu", "--json", *args,
    )  # fmt: skip
    assert shown.code == 0, shown.err
    with np.load("a.npz") as file:
        return dict(file), shown.json


@torch.no_grad()
def test_the_published_heads_attention(detr: Detr, image: Image.Image) -> None:
    """The softmax is over all heads and cells together. A head is shown by its share."""
    checkpoint = masked_weights()
    arrays, _ = attention(detr, *QUERIES, "--head", "all")
    output = checkpoint.model()(collate([prepare(image, checkpoint.preprocessing)]))
    t = checkpoint.tensors
    memory = output.named["memory"][0]  # (S, C)
    hidden = output.decoder.hidden[-1, 0, [5, 0]]  # (2, C)
    keys = memory @ t["mask_head.attention.key.weight"].T + t["mask_head.attention.key.bias"]
    queries = hidden @ t["mask_head.attention.query.weight"].T + t["mask_head.attention.query.bias"]
    heads = CONFIG.heads
    logits = torch.einsum("nhc,shc->nhs", queries.view(2, heads, -1), keys.view(len(keys), heads, -1))
    together = (logits * (CONFIG.dim // heads) ** -0.5).flatten(1).softmax(1).view(2, heads, -1)
    shares = together / together.sum(2, keepdim=True)
    np.testing.assert_allclose(arrays["mask_attention"].reshape(2, heads, -1), shares, rtol=0, atol=1e-5)
    mean = attention(detr, *QUERIES)[0]["mask_attention"].reshape(2, 1, -1)
    np.testing.assert_allclose(mean[:, 0], together.sum(1), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("image")
def test_masks_are_those_of_predict(detr: Detr) -> None:
    arrays, document = attention(detr, *QUERIES)
    detections = detr(
        "predict", "a.png", "--weights", "w.safetensors", "--threshold", 0, "--no-images", "--json", "--engine",
        "plain", "--device", "cpu",
    ).json["images"][0]["detections"]  # fmt: skip
    assert document["kind"] == "mask"
    for n, (query, entry) in enumerate(zip((5, 0), document["queries"], strict=True)):
        assert entry["query"] == query
        assert entry["mask"] == detections[query]["mask"]
        assert entry["score"] == pytest.approx(detections[query]["score"], abs=1e-5)
        (facts,) = entry["maps"]
        assert arrays["mask_attention"][n, 0].max() == pytest.approx(facts["most"], abs=1e-6)
        assert 0 <= facts["in_mask"] <= 1
    with Image.open("a.jpg") as sheet:
        assert min(sheet.size) > 200


@torch.no_grad()
def test_the_attention_of_a_product_is_the_probability_of_its_pixels() -> None:
    torch.manual_seed(0)
    architecture, config = preset("dino-tiny-masks")
    model = architecture.build(config).eval()
    masks = model(Batch(torch.randn(1, 3, 64, 80), None)).last.masks
    numbers = torch.tensor([0, 0]), torch.tensor([3, 7])
    maps = masks.attention(*numbers)
    assert maps.shape == (2, 1, 64, 80)
    torch.testing.assert_close(maps.sum((1, 2, 3)), torch.ones(2))
    expected = masks(*numbers).sigmoid()
    torch.testing.assert_close(maps[:, 0], expected / expected.sum((1, 2), keepdim=True))


@pytest.mark.usefixtures("image")
@pytest.mark.parametrize(
    ("weights", "args"), [("boxes", ["--query", 3]), ("boxes", ["--self"]), ("w", ["--layer", "all"])]
)
def test_usage_errors(detr: Detr, tmp_path: Path, weights: str, args: list[object]) -> None:
    assert detr("visualize-attn", "a.png", "--weights", f"{weights}.safetensors", "--mask-head", *args).code == 2
    assert not list(tmp_path.glob("attention*.png"))
