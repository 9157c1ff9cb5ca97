"""What is recorded is what the published model computes, and recording changes nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from golden_rules import VALUE, Golden
from PIL import Image
from small import CONFIG, TINY, small_weights
from test_golden import CONFIGS, ON_SOME, close, our_name

from detrcli.architectures import architecture_of
from detrcli.config import ModelConfig
from detrcli.data.batching import collate
from detrcli.errors import UsageError
from detrcli.inference.detector import Detector
from detrcli.inspection.attention import cross_attention, encoder_attention, query_attention
from detrcli.inspection.look import PictureRecord, chosen_queries, record_picture
from detrcli.inspection.maps import to_picture
from detrcli.losses.scoring import Sigmoid
from detrcli.model.dense_attention import DenseInspectable, DenseRecord
from detrcli.model.inspectable import ForwardRecord, Sampled
from detrcli.resize import Letterbox
from detrcli.structures import Batch, Output, QueryGroup

BOTH = pytest.mark.parametrize("config", [CONFIG, TINY], ids=["detr", "detr-tiny"])


def pictures() -> Batch:
    g = torch.Generator().manual_seed(0)
    return collate([torch.randn(3, 64, 96, generator=g), torch.randn(3, 72, 60, generator=g)])


def record(config: ModelConfig, batch: Batch) -> tuple[DenseInspectable, DenseRecord]:
    checkpoint = small_weights(config)
    model = checkpoint.model()
    inspectable = checkpoint.inspect(model)
    with inspectable.recorded() as forward, torch.inference_mode():
        model(batch)
    return inspectable, forward


@pytest.fixture
def image() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", ON_SOME)
def test_golden_attention(name: str) -> None:
    golden, architecture = Golden(name), architecture_of(CONFIGS[name])
    model = architecture.build(CONFIGS[name]).eval()
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
def test_every_map_sums_to_one_and_padding_gets_nothing(config: ModelConfig) -> None:
    batch = pictures()
    inspectable, forward = record(config, batch)
    h, w = forward.cells
    assert batch.padding is not None
    padded = torch.nn.functional.interpolate(batch.padding[None].float(), (h, w))[0].bool()  # (B, h, w)
    for layer in range(inspectable.decoder_layers):
        maps = forward.cross(layer, [8, 2]).density()
        assert maps.shape == (2, 2, 4, h, w)
        torch.testing.assert_close(maps.sum((-2, -1)), torch.ones(2, 2, 4))
        assert padded.any()
        assert (maps.amax((1, 2))[padded] == 0).all()
    torch.testing.assert_close(forward.encoder(0, [3]).density().sum((-2, -1)), torch.ones(2, 1, 4))
    among = forward.among_queries(1)
    assert among.shape == (2, 4, 9, 9)
    torch.testing.assert_close(among.sum(-1), torch.ones(2, 4, 9))


@BOTH
def test_a_map_is_that_of_its_query(config: ModelConfig) -> None:
    """Asked one by one, together and in another order; and as the formula says, by hand."""
    inspectable, forward = record(config, pictures())
    together = forward.cross(1, range(9)).density()
    for query in (0, 5, 8):
        torch.testing.assert_close(forward.cross(1, [query]).density()[:, 0], together[:, query])
    torch.testing.assert_close(forward.cross(1, [7, 1]).density(), together[:, [7, 1]])

    call = forward.calls[inspectable.cross[1]]
    module = call.attention
    with torch.inference_mode():
        dim = module.embed_dim
        q = call.queries @ module.in_proj_weight[:dim].T + module.in_proj_bias[:dim]  # (B, Q, C)
        k = call.keys @ module.in_proj_weight[dim : 2 * dim].T + module.in_proj_bias[dim : 2 * dim]
        width = dim // 4
        head = slice(2 * width, 3 * width)
        scores = q[..., head] @ k[..., head].mT / width**0.5  # (B, Q, S)
        assert call.padding is not None
        by_hand = scores.masked_fill(call.padding[:, None], -torch.inf).softmax(-1)
    torch.testing.assert_close(together[:, :, 2].flatten(2), by_hand, rtol=0, atol=VALUE)


@BOTH
def test_recording_changes_nothing(config: ModelConfig) -> None:
    weights, batch = small_weights(config), pictures()
    model = weights.model()
    with torch.inference_mode():
        before = model(batch)
        with weights.inspect(model).recorded() as forward:
            within = model(batch)
        forward.cross(0, [0])
        after = model(batch)
    for output in (within, after):
        assert torch.equal(output.last.logits, before.last.logits)
        assert torch.equal(output.last.boxes, before.last.boxes)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_an_error_leaves_no_hooks() -> None:
    checkpoint = small_weights()
    model = checkpoint.model()
    with pytest.raises(ZeroDivisionError), checkpoint.inspect(model).recorded():
        raise ZeroDivisionError
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_contents_of_the_small_model_differ_from_the_start() -> None:
    assert record(CONFIG, pictures())[1].queries_are_alike(0)
    assert not record(TINY, pictures())[1].queries_are_alike(0)


@BOTH
def test_a_record_predicts_what_predict_does(config: ModelConfig, image: Image.Image) -> None:
    detector = Detector(small_weights(config), "cpu", engine="plain")
    seen, found = record_picture(detector, image), detector.predict(image, threshold=0)
    np.testing.assert_array_equal(seen.last.queries, np.arange(9))
    for ours, theirs in zip(vars(seen.last).values(), vars(found).values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(seen.layers) == len(seen.nothing) == seen.inspectable.decoder_layers
    probabilities = seen.forward.output.decoder.logits[:, 0].softmax(-1)
    np.testing.assert_array_equal(seen.nothing, probabilities.argmax(-1).numpy() == 3)


def test_without_queries_those_that_predict_finds_the_surest_first(image: Image.Image) -> None:
    detector = Detector(small_weights(TINY), "cpu")
    seen = record_picture(detector, image)
    threshold = float(np.sort(seen.last.scores)[4]) - 1e-6
    found = detector.predict(image, threshold=threshold)
    assert chosen_queries(seen, None, threshold) == found.queries.tolist()
    assert chosen_queries(seen, [5, 0, 5], threshold) == [5, 0]
    with pytest.raises(UsageError, match=f"the best is query {seen.last.scores.argmax()}"):
        chosen_queries(seen, None, 1)
    with pytest.raises(UsageError, match="queries 0 to 8"):
        chosen_queries(seen, [9], 0.5)


def test_with_sigmoid_scores_every_query_has_its_likeliest_class(image: Image.Image) -> None:
    detector = Detector(replace(small_weights(TINY)), "cpu")
    detector.scoring = Sigmoid()
    detector.classes = replace(
        detector.classes, ids=np.append(detector.classes.ids, 9), names=np.append(detector.classes.names, "bird")
    )
    seen = record_picture(detector, image)
    rows = seen.forward.output.last.logits[0]  # (Q, 4), all of them classes now
    np.testing.assert_array_equal(seen.last.scores, rows.sigmoid().max(-1).values.numpy())
    np.testing.assert_array_equal(seen.last.category_ids, detector.classes.ids[rows.argmax(-1).numpy()])
    assert not seen.nothing.any()
    assert len(detector.predict(image, threshold=0)) == 36  # each query in four of them


@BOTH
def test_findings_hold_what_was_recorded(config: ModelConfig, image: Image.Image) -> None:
    seen = record_picture(Detector(small_weights(config), "cpu"), image)
    h, w = seen.forward.cells
    found = cross_attention(seen, [5, 0, 8], [0, 1], [0, 1, 2, 3])
    assert found.maps.shape == (2, 3, 4, h, w)
    for layer, maps in enumerate(found.maps):
        expected = seen.forward.cross(layer, [5, 0, 8]).density()[0]
        np.testing.assert_allclose(maps, expected, rtol=0, atol=1e-7)
    mean = cross_attention(seen, [5, 0, 8], range(len(seen.layers)), [None])
    np.testing.assert_allclose(mean.maps[:2], found.maps.mean(2, keepdims=True), atol=1e-6)
    assert mean.document["queries"][0]["maps"][-1]["box"] == mean.document["queries"][0]["box"]
    for entry, row in zip(mean.entries, mean.rows, strict=True):
        y, x = np.unravel_index(entry.map.argmax(), entry.map.shape)
        column, line = entry.fact.brightest
        assert (int(line / 60 * h), int(column / 90 * w)) == (y, x)
        assert row[:2] == (entry.prediction.query, entry.prediction.name)
    encoder = encoder_attention(seen, [(0, 0), (89.5, 59)], [0], [None])
    assert encoder.cells == [0, h * w - 1]
    np.testing.assert_allclose(encoder.maps.sum((-2, -1)), 1, atol=1e-5)
    among = query_attention(seen, [5, 0], [0, 1], [None])
    np.testing.assert_allclose(among.maps.sum(-1), 1, atol=1e-5)
    assert list(among.alike) == [config is CONFIG, False]
    assert len(among.remarks) == (config is CONFIG)


def test_in_a_letterbox_maps_and_boxes_are_told_in_pixels_of_the_picture(image: Image.Image) -> None:
    """The input is 128 x 64 and the picture 96 x 64 in its middle, so 16 columns of pixels are grey at each side."""
    checkpoint = small_weights(TINY)
    boxed = replace(checkpoint, preprocessing=replace(checkpoint.preprocessing, resize=Letterbox(64, 128)))
    detector = Detector(boxed, "cpu", engine="plain")
    seen = record_picture(detector, image)
    found = detector.predict(image, threshold=0)
    np.testing.assert_array_equal(seen.last.boxes, found.boxes)
    assert seen.forward.cells == (8, 16)
    encoder = encoder_attention(seen, [(0, 0), (89, 59)], [0], [None])
    assert encoder.cells == [2, 7 * 16 + 13]  # the first and the last column of the picture, of 16
    (point,) = to_picture(np.array([[16 / 128, 0.5]]), seen.size, seen.placement).tolist()
    assert point == pytest.approx([0, 30])


class SampledRecord(ForwardRecord):
    """Two heads, one level, two points: in the middle of a query's box, and a quarter of the input to its right."""

    def __init__(self, output: Output) -> None:
        self.output, self.cells = output, (8, 12)

    def cross(self, layer: int, queries: object) -> Sampled:
        boxes = self.output.decoder.boxes[layer, :, list(queries)]  # type: ignore[call-overload]  # (1, n, 4)
        centres = boxes[:, :, None, None, None, :2].expand(-1, -1, 2, 1, 1, 2)
        points = torch.cat([centres, centres + torch.tensor([0.25, 0])], 4)
        weights = torch.tensor([[[0.75, 0.25]], [[0.5, 0.5]]]).expand(1, boxes.shape[1], 2, 1, 2)
        return Sampled(points, weights, boxes, self.cells)


def sampled_record(image: Image.Image) -> PictureRecord:
    seen = record_picture(Detector(small_weights(TINY), "cpu"), image)
    boxes = torch.tensor([[0.25, 0.5, 0.2, 0.4], [0.5, 0.75, 0.1, 0.1]]).expand(3, 1, 2, 4)
    logits = seen.forward.output.decoder.logits[:, :, :2]
    return replace(seen, forward=SampledRecord(Output(QueryGroup("decoder", logits, boxes))))


def test_sampled_points_are_told_in_pixels_beside_their_density(image: Image.Image) -> None:
    seen = sampled_record(image)
    arrays = cross_attention(seen, [1, 0], [0, 2], [None]).arrays
    assert arrays["cross"].shape == (2, 2, 1, 8, 12)
    np.testing.assert_allclose(arrays["cross"].sum((-2, -1)), 1, rtol=1e-6)
    assert arrays["points"].shape == (2, 2, 2, 1, 2, 2)
    np.testing.assert_allclose(arrays["points"][0, 1, 0, 0], [[22.5, 30], [45, 30]], atol=1e-4)
    np.testing.assert_allclose(arrays["references"][1], [[45, 45, 9, 6], [22.5, 30, 18, 24]], atol=1e-4)
    np.testing.assert_allclose(arrays["weights"].sum((-2, -1)), 1)
    one = cross_attention(seen, [0], [0], [1])
    assert one.arrays["weights"].shape == (1, 1, 1, 1, 2)
    np.testing.assert_allclose(one.arrays["weights"].ravel(), [0.5, 0.5])
    # At (0.25, 0.5) of 12 x 8 cells four cells share a point's weight.
    np.testing.assert_allclose(one.maps[0, 0, 0, 3:5, 2:4], 0.125)
    with pytest.raises(UsageError, match="encoder attention"):
        seen.forward.encoder(0, [0])
