"""Which cells a mask head goes by, against the softmax written out, and the masks that predict gives."""

from pathlib import Path

import numpy as np
import pytest
import torch
from here import Detr
from PIL import Image
from small import CONFIG, masked_weights, small_weights

from detrcli.architectures import preset
from detrcli.checkpoints.formats.native import save
from detrcli.data.batching import collate
from detrcli.data.preprocessing import prepare
from detrcli.structures import Batch

QUERIES = ["--query", 5, "--query", 0]


@pytest.fixture
def picture(tmp_path: Path) -> Image.Image:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8))
    image.save(tmp_path / "a.png")
    return image


def looked(detr: Detr, *args: object) -> dict[str, np.ndarray]:
    shown = detr(
        "visualize-attn", "a.png", "--weights", "w.safetensors", "--mask-head", "--raw", "a.npz", "--overwrite",
        "--out", "a.jpg", "--device", "cpu", *args,
    )  # fmt: skip
    assert shown.code == 0, shown.err
    with np.load("a.npz") as file:
        return dict(file)


@torch.no_grad()
def test_the_published_heads_attention(detr: Detr, picture: Image.Image, tmp_path: Path) -> None:
    """A softmax over all heads and cells together, written out here; a head is shown by its own share."""
    checkpoint = masked_weights()
    save(checkpoint, tmp_path / "w.safetensors")
    raw = looked(detr, *QUERIES, "--head", "all")
    model = checkpoint.model()
    output = model(collate([prepare(picture, checkpoint.preprocessing)]))
    t = checkpoint.tensors
    memory = output.named["memory"][0]  # (S, C)
    hidden = output.decoder.hidden[-1, 0, [5, 0]]  # (2, C)
    keys = memory @ t["mask_head.attention.key.weight"].T + t["mask_head.attention.key.bias"]
    asked = hidden @ t["mask_head.attention.query.weight"].T + t["mask_head.attention.query.bias"]
    heads = CONFIG.heads
    logits = torch.einsum("nhc,shc->nhs", asked.view(2, heads, -1), keys.view(len(keys), heads, -1))
    together = (logits * (CONFIG.dim // heads) ** -0.5).flatten(1).softmax(1).view(2, heads, -1)
    shares = together / together.sum(2, keepdim=True)
    np.testing.assert_allclose(raw["mask_attention"].reshape(2, heads, -1), shares, rtol=0, atol=1e-5)
    mean = looked(detr, *QUERIES)["mask_attention"].reshape(2, 1, -1)
    np.testing.assert_allclose(mean[:, 0], together.sum(1), rtol=0, atol=1e-5)


@torch.no_grad()
def test_masks_are_those_of_predict(detr: Detr, picture: Image.Image, tmp_path: Path) -> None:
    checkpoint = masked_weights()
    save(checkpoint, tmp_path / "w.safetensors")
    raw = looked(detr, *QUERIES)
    found = detr(
        "predict", "a.png", "--weights", "w.safetensors", "--threshold", 0, "--no-images", "--json", "--engine",
        "plain", "--device", "cpu",
    ).json["images"][0]["detections"]  # fmt: skip
    document = detr(
        "visualize-attn", "a.png", "--weights", "w.safetensors", "--mask-head", *QUERIES, "--json", "--device",
        "cpu",
    ).json  # fmt: skip
    assert document["kind"] == "mask"
    for n, query in enumerate((5, 0)):
        one = document["queries"][n]
        assert one["query"] == query
        assert one["mask"] == found[query]["mask"]
        assert one["score"] == pytest.approx(found[query]["score"], abs=1e-5)
        (fact,) = one["maps"]
        assert raw["mask_attention"][n, 0].max() == pytest.approx(fact["most"], abs=1e-6)
        assert 0 <= fact["in_mask"] <= 1
    with Image.open("a.jpg") as sheet:
        assert min(sheet.size) > 200


@torch.no_grad()
def test_a_product_goes_by_the_probability_of_its_pixels() -> None:
    torch.manual_seed(0)
    architecture, config = preset("dino-tiny-masks")
    model = architecture.build(config).eval()
    masks = model(Batch(torch.randn(1, 3, 64, 80), None)).last.masks
    asked = torch.tensor([0, 0]), torch.tensor([3, 7])
    maps = masks.attention(*asked)
    assert maps.shape == (2, 1, 64, 80)
    torch.testing.assert_close(maps.sum((1, 2, 3)), torch.ones(2))
    wanted = masks(*asked).sigmoid()
    torch.testing.assert_close(maps[:, 0], wanted / wanted.sum((1, 2), keepdim=True))


@pytest.mark.usefixtures("picture")
def test_what_cannot_be_shown_is_told(detr: Detr, tmp_path: Path) -> None:
    save(small_weights(CONFIG), tmp_path / "w.safetensors")
    args = ("visualize-attn", "a.png", "--weights", "w.safetensors", "--mask-head", "--query", 3)
    shown = detr(*args)
    assert shown.code == 2
    assert "no mask head" in shown.err
    assert detr(*args, "--self").code == 2
    save(masked_weights(), tmp_path / "m.safetensors")
    other = detr("visualize-attn", "a.png", "--weights", "m.safetensors", "--mask-head", "--layer", "all")
    assert other.code == 2
    assert "last layer" in other.err
    assert not list(tmp_path.glob("attention*.png"))
