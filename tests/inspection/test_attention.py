"""Recorded attention equals that of the published model, and recording changes nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_rules import VALUE, Golden
from here import Detr, all_detections
from letterbox import Letterbox
from PIL import Image
from small import BOTH, CONFIG, TINY, masked_weights, noise, small_weights
from test_golden import MODELS, ON_SOME, close, our_name

from detrcli.architectures import preset
from detrcli.checkpoints.formats.native import save
from detrcli.config import ModelConfig
from detrcli.data.preprocessing import collate, prepare
from detrcli.errors import UsageError
from detrcli.inference.detector import Detector
from detrcli.inspection.attention import cross_attention, encoder_attention, query_attention
from detrcli.inspection.maps import points_to_image
from detrcli.inspection.record import ImageRecord, record_image, select_queries
from detrcli.losses.scoring import Sigmoid
from detrcli.model.inspectable import ForwardRecord, Sampled
from detrcli.model.recorded_attention import CallRecord, DenseInspectable
from detrcli.structures import Batch, Output, QueryGroup


def batch_of_two() -> Batch:
    g = torch.Generator().manual_seed(0)
    return collate([torch.randn(3, 64, 96, generator=g), torch.randn(3, 72, 60, generator=g)])


def record(config: ModelConfig, batch: Batch) -> tuple[DenseInspectable, CallRecord]:
    checkpoint = small_weights(config)
    model = checkpoint.model()
    inspectable = checkpoint.inspect(model)
    with inspectable.recorded() as forward, torch.inference_mode():
        model(batch)
    return inspectable, forward


@pytest.fixture
def image() -> Image.Image:
    return noise()


@pytest.fixture
def folder(image: Image.Image, tmp_path: Path) -> Path:
    """The working directory, with an image and two checkpoints."""
    image.save(tmp_path / "a.png")
    save(masked_weights(), tmp_path / "w.safetensors")
    save(small_weights(CONFIG), tmp_path / "boxes.safetensors")
    return tmp_path


@pytest.mark.parametrize("name", ON_SOME)
def test_golden_attention(name: str) -> None:
    golden, (architecture, config) = Golden(name), MODELS[name]
    model = architecture.build(config).eval()
    model.load_state_dict({our_name(key, model.has_masks): value for key, value in golden.state_dict().items()})
    inspectable = architecture.inspect(model)
    with inspectable.recorded() as forward, torch.inference_mode():
        model(golden.batch())
    cross = forward.cross(inspectable.decoder_layers - 1, [0, 17, 99]).density()  # (B, 3, heads, h, w)
    close(cross.mean(2).flatten(2), golden.arrays["cross_attention_last_layer_mean"])
    h, w = forward.cells
    encoder = forward.encoder(inspectable.encoder_layers - 1, [0, 7, h * w // 2]).density()
    close(encoder.mean(2).flatten(2), golden.arrays["encoder_attention_last_layer_mean_rows"])
    close(forward.output.decoder.logits, golden.arrays["pred_logits"])
    assert forward.queries_are_alike(0)
    assert not forward.queries_are_alike(1)


@BOTH
def test_maps_sum_to_one_without_padding(config: ModelConfig) -> None:
    batch = batch_of_two()
    inspectable, forward = record(config, batch)
    h, w = forward.cells
    assert batch.padding is not None
    padded = torch.nn.functional.interpolate(batch.padding[None].float(), (h, w))[0].bool()  # (B, h, w)
    assert padded.any()
    for layer in range(inspectable.decoder_layers):
        maps = forward.cross(layer, [8, 2]).density()
        assert maps.shape == (2, 2, 4, h, w)
        torch.testing.assert_close(maps.sum((-2, -1)), torch.ones(2, 2, 4))
        assert (maps.amax((1, 2))[padded] == 0).all()
    torch.testing.assert_close(forward.encoder(0, [3]).density().sum((-2, -1)), torch.ones(2, 1, 4))
    among = forward.among_queries(1)
    assert among.shape == (2, 4, 9, 9)
    torch.testing.assert_close(among.sum(-1), torch.ones(2, 4, 9))


@BOTH
def test_maps_of_selected_queries(config: ModelConfig) -> None:
    """Selected alone, together and in another order, and computed by the formula."""
    inspectable, forward = record(config, batch_of_two())
    together = forward.cross(1, range(9)).density()
    for queries in ([0], [5], [8], [7, 1]):
        torch.testing.assert_close(forward.cross(1, queries).density(), together[:, queries])

    module = inspectable.cross[1]
    (attending, keys, _), options = forward.calls[module]
    padding = options["key_padding_mask"]
    with torch.inference_mode():
        dim = module.embed_dim
        q = attending @ module.in_proj_weight[:dim].T + module.in_proj_bias[:dim]  # (B, Q, C)
        k = keys @ module.in_proj_weight[dim : 2 * dim].T + module.in_proj_bias[dim : 2 * dim]
        width = dim // 4
        head = slice(2 * width, 3 * width)
        scores = q[..., head] @ k[..., head].mT / width**0.5  # (B, Q, S)
        assert padding is not None
        expected = scores.masked_fill(padding[:, None], -torch.inf).softmax(-1)
    torch.testing.assert_close(together[:, :, 2].flatten(2), expected, rtol=0, atol=VALUE)


@BOTH
def test_recording_changes_nothing(config: ModelConfig) -> None:
    checkpoint, batch = small_weights(config), batch_of_two()
    model = checkpoint.model()
    with torch.inference_mode():
        before = model(batch)
        with checkpoint.inspect(model).recorded() as forward:
            within = model(batch)
        forward.cross(0, [0])
        after = model(batch)
    for output in (within, after):
        assert torch.equal(output.last.logits, before.last.logits)
        assert torch.equal(output.last.boxes, before.last.boxes)
    with pytest.raises(ZeroDivisionError), checkpoint.inspect(model).recorded():
        raise ZeroDivisionError
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@BOTH
def test_a_record_has_the_predictions_of_predict(config: ModelConfig, image: Image.Image) -> None:
    detector = Detector(small_weights(config), "cpu", engine="plain")
    recorded, predicted = record_image(detector, image), detector.predict(image, threshold=0)
    np.testing.assert_array_equal(recorded.last.queries, np.arange(9))
    for ours, theirs in zip(vars(recorded.last).values(), vars(predicted).values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(recorded.layers) == len(recorded.no_object) == recorded.inspectable.decoder_layers
    probabilities = recorded.forward.output.decoder.logits[:, 0].softmax(-1)
    np.testing.assert_array_equal(recorded.no_object, probabilities.argmax(-1).numpy() == 3)


def test_selected_queries(image: Image.Image) -> None:
    """By default those that predict finds, by descending score."""
    detector = Detector(small_weights(TINY), "cpu")
    recorded = record_image(detector, image)
    threshold = float(np.sort(recorded.last.scores)[4]) - 1e-6
    predicted = detector.predict(image, threshold=threshold)
    assert select_queries(recorded, None, threshold) == predicted.queries.tolist()
    assert select_queries(recorded, [5, 0, 5], threshold) == [5, 0]
    with pytest.raises(UsageError, match=f"query {recorded.last.scores.argmax()}, "):
        select_queries(recorded, None, 1)
    for query in (9, -1):
        with pytest.raises(UsageError, match=f"queries={query}"):
            select_queries(recorded, [query], 0.5)


def test_with_sigmoid_scores_every_query_has_its_most_probable_class(image: Image.Image) -> None:
    detector = Detector(small_weights(TINY), "cpu")
    detector.scoring = Sigmoid()
    detector.classes = replace(
        detector.classes, ids=np.append(detector.classes.ids, 9), names=np.append(detector.classes.names, "bird")
    )
    recorded = record_image(detector, image)
    logits = recorded.forward.output.last.logits[0]  # (Q, 4), all of them classes now
    np.testing.assert_array_equal(recorded.last.scores, logits.sigmoid().max(-1).values.numpy())
    np.testing.assert_array_equal(recorded.last.category_ids, detector.classes.ids[logits.argmax(-1).numpy()])
    assert not recorded.no_object.any()
    assert len(detector.predict(image, threshold=0)) == 36  # each query with four classes


@BOTH
def test_findings_contain_what_was_recorded(config: ModelConfig, image: Image.Image) -> None:
    recorded = record_image(Detector(small_weights(config), "cpu"), image)
    h, w = recorded.forward.cells
    found = cross_attention(recorded, [5, 0, 8], [0, 1], [0, 1, 2, 3])
    assert found.maps.shape == (2, 3, 4, h, w)
    np.testing.assert_array_equal(found.arrays["cross"], found.maps)
    for layer, maps in enumerate(found.maps):
        expected = recorded.forward.cross(layer, [5, 0, 8]).density()[0]
        np.testing.assert_allclose(maps, expected, rtol=0, atol=1e-7)
    mean = cross_attention(recorded, [5, 0, 8], range(len(recorded.layers)), ["mean"])
    np.testing.assert_allclose(mean.maps[:2], found.maps.mean(2, keepdims=True), atol=1e-6)
    assert mean.document["queries"][0]["maps"][-1]["box"] == mean.document["queries"][0]["box"]
    for entry, row in zip(mean.entries, mean.table.rows, strict=True):
        y, x = np.unravel_index(entry.values.argmax(), entry.values.shape)
        column, line = entry.facts.brightest
        assert (int(line / 60 * h), int(column / 90 * w)) == (y, x)
        query = mean.queries[entry.index]
        assert row[:2] == (query, recorded.prediction(entry.layer, query).name)
    encoder = encoder_attention(recorded, [(0, 0), (89.5, 59)], [0], ["mean"])
    assert encoder.cells == [0, h * w - 1]
    np.testing.assert_allclose(encoder.maps.sum((-2, -1)), 1, atol=1e-5)
    among = query_attention(recorded, [5, 0], [0, 1], ["mean"])
    np.testing.assert_allclose(among.maps.sum(-1), 1, atol=1e-5)
    assert list(among.equal_values) == [config is CONFIG, False]
    assert len(among.remarks) == (config is CONFIG)


def test_a_letterbox(image: Image.Image) -> None:
    """The input is 128 x 64, the image 96 x 64 in its middle, so 16 columns of pixels are gray at each side."""
    checkpoint = small_weights(TINY)
    boxed = replace(checkpoint, preprocessing=replace(checkpoint.preprocessing, resize=Letterbox(64, 128)))
    detector = Detector(boxed, "cpu", engine="plain")
    recorded = record_image(detector, image)
    np.testing.assert_array_equal(recorded.last.boxes, detector.predict(image, threshold=0).boxes)
    assert recorded.forward.cells == (8, 16)
    encoder = encoder_attention(recorded, [(0, 0), (89, 59)], [0], ["mean"])
    assert encoder.cells == [2, 7 * 16 + 13]  # the first and the last column of the image, of 16
    (point,) = points_to_image(np.array([[16 / 128, 0.5]]), recorded.size, recorded.placement).tolist()
    assert point == pytest.approx([0, 30])


class SampledRecord(ForwardRecord):
    """Two heads, one level, two points: in the center of a query's box, and a quarter of the input to its right."""

    def __init__(self, output: Output) -> None:
        self.output, self.cells = output, (8, 12)

    def cross(self, layer: int, queries: object) -> Sampled:
        boxes = self.output.decoder.boxes[layer, :, list(queries)]  # type: ignore[call-overload]  # (1, n, 4)
        centers = boxes[:, :, None, None, None, :2].expand(-1, -1, 2, 1, 1, 2)
        points = torch.cat([centers, centers + torch.tensor([0.25, 0])], 4)
        weights = torch.tensor([[[0.75, 0.25]], [[0.5, 0.5]]]).expand(1, boxes.shape[1], 2, 1, 2)
        return Sampled(points, weights, boxes, self.cells)


@pytest.fixture
def sampled(image: Image.Image) -> ImageRecord:
    recorded = record_image(Detector(small_weights(TINY), "cpu"), image)
    boxes = torch.tensor([[0.25, 0.5, 0.2, 0.4], [0.5, 0.75, 0.1, 0.1]]).expand(3, 1, 2, 4)
    logits = recorded.forward.output.decoder.logits[:, :, :2]
    return replace(recorded, forward=SampledRecord(Output(QueryGroup("decoder", logits, boxes))))


def test_sampled_points_in_pixels_beside_their_density(sampled: ImageRecord) -> None:
    found = cross_attention(sampled, [1, 0], [0, 2], ["mean"])
    arrays = found.arrays
    assert arrays["cross"].shape == (2, 2, 1, 8, 12)
    np.testing.assert_allclose(arrays["cross"].sum((-2, -1)), 1, rtol=1e-6)
    assert arrays["points"].shape == (2, 2, 2, 1, 2, 2)
    np.testing.assert_allclose(arrays["points"][0, 1, 0, 0], [[22.5, 30], [45, 30]], atol=1e-4)
    np.testing.assert_allclose(arrays["references"][1], [[45, 45, 9, 6], [22.5, 30, 18, 24]], atol=1e-4)
    np.testing.assert_allclose(arrays["weights"].sum((-2, -1)), 1)
    assert found.entries[0].sampled is not None
    assert found.entries[0].sampled.weights.shape == (2, 1, 2)  # of all heads
    head = cross_attention(sampled, [0], [0], [1])
    assert head.arrays["weights"].shape == (1, 1, 1, 1, 2)
    np.testing.assert_allclose(head.arrays["weights"].ravel(), [0.5, 0.5])
    # At (0.25, 0.5) of 12 x 8 cells, four cells share a point's weight.
    np.testing.assert_allclose(head.maps[0, 0, 0, 3:5, 2:4], 0.125)
    both = cross_attention(sampled, [0], [0], [0, 1]).entries
    for entry, weights in zip(both, ([0.75, 0.25], [0.5, 0.5]), strict=True):
        assert entry.sampled is not None
        np.testing.assert_allclose(entry.sampled.weights.ravel(), weights)
    with pytest.raises(UsageError, match="encoder attention"):
        sampled.forward.encoder(0, [0])


QUERIES = ["--query", 5, "--query", 0]


def attention(detr: Detr, *args: object) -> tuple[dict[str, np.ndarray], Any]:
    """Return the arrays and the document of the command."""
    shown = detr(
        "visualize-attn", "a.png", "--weights", "w.safetensors", "--mask-head", "--raw", "a.npz", "--overwrite",
        "--out", "a.jpg", "--device", "cpu", "--json", *args,
    ).ok()  # fmt: skip
    with np.load("a.npz") as file:
        return dict(file), shown.json


@torch.no_grad()
@pytest.mark.usefixtures("folder")
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


@pytest.mark.usefixtures("folder")
def test_masks_are_those_of_predict(detr: Detr) -> None:
    arrays, document = attention(detr, *QUERIES)
    detections = all_detections(detr, "a.png", "w.safetensors", "--engine", "plain", "--device", "cpu")
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


@pytest.mark.parametrize(
    ("weights", "args"), [("boxes", ["--query", 3]), ("boxes", ["--self"]), ("w", ["--layer", "all"])]
)
def test_usage_errors(detr: Detr, folder: Path, weights: str, args: list[object]) -> None:
    assert detr("visualize-attn", "a.png", "--weights", f"{weights}.safetensors", "--mask-head", *args).code == 2
    assert not list(folder.glob("attention*.png"))
