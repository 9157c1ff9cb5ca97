"""The rules of relevance, gradients against finite differences, and deletion and insertion cell by cell."""

import itertools

import numpy as np
import pytest
import torch
from letterbox import Letterbox
from small import BOTH, CONFIG, TINY, noise, small_weights

from detrcli.config import ModelConfig, Preprocessing
from detrcli.data.layouts.coco import Mask
from detrcli.data.preprocessing import collate
from detrcli.errors import UsageError
from detrcli.inference.detector import Detector
from detrcli.inspection.maps import box_coverage, cell_at, mask_coverage
from detrcli.inspection.record import ImageRecord, record_image
from detrcli.inspection.relevance import (
    SHARES,
    area,
    compare_maps,
    delete,
    deletion_and_insertion,
    deletion_steps,
    mean_color,
    normalize,
    positive_share,
    random_maps,
    relevance,
    relevance_of_cells,
)
from detrcli.model.inspectable import Inspectable


def record(config: ModelConfig) -> ImageRecord:
    return record_image(Detector(small_weights(config), "cpu"), noise())


def pixels() -> torch.Tensor:
    return torch.randn(3, 64, 96, generator=torch.Generator().manual_seed(0))


def test_rules() -> None:
    """Two cells, two queries, one encoder and two decoder layers, calculated by hand."""
    encoder = [torch.tensor([[0.2, 0.6], [0.0, 0.4]])]
    first = (torch.tensor([[0.1, 0.3], [0.5, 0.0]]), torch.tensor([[0.2, 0.0], [0.1, 0.4]]))
    second = (torch.tensor([[0.0, 0.2], [0.0, 0.0]]), torch.zeros(2, 2))
    torch.testing.assert_close(relevance_of_cells(encoder, [first]), torch.tensor([[0.4375, 1.0625], [0.3125, 0.9875]]))
    # The second layer's self-attention passes on the relevance in the queries.
    torch.testing.assert_close(
        relevance_of_cells(encoder, [first, second]), torch.tensor([[0.5, 1.26], [0.3125, 0.9875]])
    )
    # Two encoder layers: (I + E)(I + E), whose rows beside the diagonal are 0.44, 1.56 and 0, 0.96.
    torch.testing.assert_close(
        relevance_of_cells(encoder * 2, [(torch.zeros(2, 2), torch.eye(2))]),
        torch.tensor([[1 + 0.44 / 2, 1.56 / 2], [0.0, 2.0]]),
    )


def test_normalize_and_positive_share() -> None:
    torch.testing.assert_close(
        normalize(torch.tensor([[1.0, 3.0], [0.0, 1.0]])), torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    )
    weights = torch.tensor([[[0.5, 0.5]], [[0.2, 0.8]]])
    gradient = torch.tensor([[[2.0, -1.0]], [[1.0, 4.0]]])
    torch.testing.assert_close(positive_share(weights, gradient), torch.tensor([[0.6, 1.6]]))


@BOTH
def test_recording_gradients_changes_no_prediction(config: ModelConfig) -> None:
    checkpoint = small_weights(config)
    model = checkpoint.model()
    inspectable, batch = checkpoint.inspect(model), collate([pixels()])
    with inspectable.recorded() as forward, torch.inference_mode():
        plain = model(batch)
    with inspectable.with_gradient() as recorded:
        output = model(batch)
        gradients = recorded()
    torch.testing.assert_close(output.last.logits, plain.last.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(output.last.boxes, plain.last.boxes, rtol=0, atol=1e-5)
    cross = gradients.decoder[1][1][0].detach()  # (heads, Q, S)
    torch.testing.assert_close(cross.transpose(0, 1), forward.cross(1, range(9)).density()[0].flatten(2).clone())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@BOTH
@pytest.mark.parametrize(
    "name", ["encoder.layers.0.self_attention", "decoder.layers.0.cross_attention", "decoder.layers.1.self_attention"]
)
def test_gradients_of_attention(config: ModelConfig, name: str) -> None:
    """A small increase of a head's weight adds that share of a value to the output of the module.

    Boxes are constant, because no gradient passes through them from layer to layer.
    """
    model = small_weights(config).model().double()
    model.box_head.float()
    model.box_head.layers[2].weight = torch.nn.Parameter(torch.zeros_like(model.box_head.layers[2].weight))
    batch, query = collate([pixels().double()]), 4
    inspectable = small_weights(config).inspect(model)
    with inspectable.with_gradient() as recorded:
        logit = model(batch).last.logits[0, query, :-1].max()
        record = recorded()
    attention = {
        "encoder.layers.0.self_attention": record.encoder[0],
        "decoder.layers.0.cross_attention": record.decoder[0][1],
        "decoder.layers.1.self_attention": record.decoder[1][0],
    }
    (gradient,) = torch.autograd.grad(logit, attention[name])
    head, row, token, step = 2, query if "decoder" in name else 5, 3, 1e-6

    module = model.get_submodule(name)
    width = module.head_dim
    part = slice(head * width, (head + 1) * width)

    def nudge(_module: object, args: tuple[torch.Tensor, ...], output: tuple[torch.Tensor, None]) -> object:
        projected = args[2] @ module.in_proj_weight.chunk(3)[2].T + module.in_proj_bias.chunk(3)[2]
        added = module.out_proj.weight[:, part] @ projected[0, token, part]
        changed = output[0].clone()
        changed[0, row] += step * added
        return changed, None

    hook = module.register_forward_hook(nudge)
    nudged = model(batch).last.logits[0, query, :-1].max()
    hook.remove()
    by_difference = ((nudged - logit) / step).item()
    assert abs(by_difference) > 1e-6
    assert gradient[0, head, row, token].item() == pytest.approx(by_difference, rel=1e-3, abs=1e-7)


@BOTH
def test_maps_of_queries(config: ModelConfig) -> None:
    detector = Detector(small_weights(config), "cpu")
    maps = relevance(detector, pixels(), [8, 1])
    assert maps.shape[0] == 2
    assert (maps >= 0).all()
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(2))
    torch.testing.assert_close(relevance(detector, pixels(), [1])[0], maps[1])
    assert (maps[0] - maps[1]).abs().max() > 1e-4
    assert all(p.grad is None for p in detector.model.parameters())


def test_a_model_without_relevance(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Detector(small_weights(TINY), "cpu")
    inspectable = detector.inspect()
    monkeypatch.setattr(type(inspectable), "with_gradient", Inspectable.with_gradient)
    with pytest.raises(UsageError, match="relevance"):
        relevance(detector, pixels(), [0])


@BOTH
def test_maps_are_those_of_attention_and_relevance(config: ModelConfig) -> None:
    recorded, queries = record(config), [5, 0, 8]
    found = compare_maps(recorded, queries, 1, "mean")
    arrays = found.arrays
    expected = recorded.forward.cross(1, queries).density()[0].mean(1)
    np.testing.assert_allclose(arrays["cross"][0, :, 0], expected, atol=1e-6)
    np.testing.assert_allclose(arrays["relevance"], relevance(recorded.detector, recorded.pixels, queries), atol=1e-6)
    np.testing.assert_allclose(found.maps.sum((-2, -1)), 1, rtol=1e-5)
    for i, query in enumerate(found.document["queries"]):
        for name, map_ in (("attention", arrays["cross"][0, i, 0]), ("relevance", arrays["relevance"][i])):
            assert query["maps"][name]["most"] == pytest.approx(map_.max(), abs=1e-6)
            inside = (map_ * box_coverage(recorded.box_in_input(-1, queries[i]), map_.shape)).sum()
            assert query["maps"][name]["in_box"] == pytest.approx(inside, abs=1e-6)
    assert "shares_hidden" not in found.document
    assert {len(row) for row in found.table.rows} == {len(found.table.columns)}
    assert found.remarks == []


@pytest.mark.slow
def test_measured_with_masks() -> None:
    """The mask is a query's box, and belongs to the query by class and place; a mask of another class does not."""
    recorded = record(CONFIG)
    prediction = recorded.prediction(-1, 3)
    x0, y0, x1, y1 = np.array(prediction.box).clip(0, [90, 60, 90, 60]).round().astype(int).tolist()
    pixels = np.zeros((60, 90), dtype=bool)
    pixels[y0:y1, x0:x1] = True
    other = Mask("other", pixels)
    masks = [other, Mask(prediction.label.upper(), pixels)]
    found = compare_maps(recorded, [3], 1, "mean", measured=True, masks=masks)
    (query,) = found.document["queries"]
    assert set(query["maps"]) == {"attention", "relevance", "random"}
    for name, facts in query["maps"].items():
        assert facts["deletion"][0] == pytest.approx(prediction.score, abs=1e-4)
        assert facts["insertion"][-1] == pytest.approx(prediction.score, abs=1e-4)
        assert facts["deletion"][-1] == pytest.approx(facts["insertion"][0], abs=1e-5)
        assert 0 < facts["deletion_area"] < 1
        if name != "random":  # the mask is the box, up to rounding
            assert facts["in_mask"] == pytest.approx(facts["in_box"], abs=0.05)
    assert {len(row) for row in found.table.rows} == {len(found.table.columns)}
    assert found.table.columns[-3:] == ("in its mask", "deletion", "insertion")
    assert "Relevance beats attention for" in found.remarks[1]
    far = Mask(prediction.label, np.zeros_like(pixels))
    document = compare_maps(recorded, [3], 1, "mean", masks=[other, far]).document
    assert document["queries"][0]["maps"]["attention"]["in_mask"] is None


def test_without_relevance_attention_can_be_measured() -> None:
    recorded = record(TINY)
    recorded.inspectable.abilities = frozenset({"cross-attention"})
    with pytest.raises(UsageError, match="relevance"):
        compare_maps(recorded, [0], 1, "mean")

    found = compare_maps(recorded, [0], 1, "mean", measured=True)
    assert set(found.document["queries"][0]["maps"]) == {"attention", "random"}
    assert "Attention beats random for" in found.remarks[1]


def test_the_cells_with_the_largest_weights_are_deleted_first() -> None:
    map_ = torch.from_numpy(np.random.default_rng(0).permutation(60).reshape(6, 10))
    deleted = deletion_steps(map_)
    assert [area(np.ones(len(SHARES))), area(SHARES)] == pytest.approx([1, 0.5])
    assert deleted.shape == (len(SHARES), 6, 10)
    assert deleted.sum((1, 2)).tolist() == [0, 0, 2, 4, 7, 10, 15, 20, 27, 34, 42, 50, 60]
    for before, after in itertools.pairwise(deleted):
        assert not (before & ~after).any()
    for step in deleted[2:-1]:
        assert map_[step].min() > map_[~step].max()


@BOTH
def test_curves_of_single_images(config: ModelConfig) -> None:
    detector = Detector(small_weights(config), "cpu")
    model, image = detector.model, pixels()
    h, w = (2, 3) if config is CONFIG else (8, 12)
    maps = random_maps((h, w), 2, seed=3)
    found = deletion_and_insertion(detector, image, 4, maps)
    with torch.inference_mode():
        whole = model(collate([image])).last.logits[0, 4].softmax(-1)[:-1]
        label = whole.argmax()
        for map_, curves in zip(maps, found, strict=True):
            ranked = np.argsort(-map_.ravel())
            for step in (0, 6, len(SHARES) - 1):  # none, a quarter, all
                first = ranked[: round(SHARES[step] * h * w)]
                for deleted, curve in ((first, curves["deletion"]), (np.setdiff1d(ranked, first), curves["insertion"])):
                    changed = image.clone()
                    for cell in deleted:
                        y, x = divmod(int(cell), w)
                        changed[:, y * 64 // h : (y + 1) * 64 // h, x * 96 // w : (x + 1) * 96 // w] = 0
                    score = model(collate([changed])).last.logits[0, 4].softmax(-1)[label]
                    assert curve[step] == pytest.approx(score.item(), abs=1e-5)
    assert found[0]["deletion"][0] == pytest.approx(whole[label].item(), abs=1e-6)
    assert found[0]["deletion"][0] == pytest.approx(found[0]["insertion"][-1], abs=1e-6)
    assert np.ptp(found[0]["deletion"]) > 1e-4


def test_deleted_cells_get_the_mean_color() -> None:
    """It is 0 for a network with normalized inputs."""
    torch.testing.assert_close(mean_color(Preprocessing()), torch.zeros(3))
    color = mean_color(Preprocessing(mean=(0, 0, 0), std=(1, 1, 1)))
    torch.testing.assert_close(color, torch.tensor([0.485, 0.456, 0.406]))
    deleted = torch.tensor([[[True, False]]])
    left, right = delete(torch.ones(3, 2, 4), deleted, color)[0].split(2, dim=-1)  # (3, 2, 2) each
    torch.testing.assert_close(left, color[:, None, None].expand(3, 2, 2))
    torch.testing.assert_close(right, torch.ones(3, 2, 2))


def test_coverage() -> None:
    mask = np.zeros((6, 8), dtype=bool)
    mask[2:4, 1:6] = True
    np.testing.assert_allclose(mask_coverage(mask, (3, 4)), [[0, 0, 0, 0], [0.5, 1, 1, 0], [0, 0, 0, 0]])
    box = np.array([1 / 8, 2 / 6, 6 / 8, 4 / 6])
    np.testing.assert_allclose(box_coverage(box, (3, 4)), mask_coverage(mask, (3, 4)), atol=1e-9)
    np.testing.assert_allclose(box_coverage(np.array([-1, -1, 2, 2]), (3, 4)), np.ones((3, 4)))
    assert mask_coverage(mask, (1, 1)).item() == pytest.approx(10 / 48)
    # In a letterbox the image is in the two middle columns of four; the mask is its left half.
    left = np.zeros((6, 6), dtype=bool)
    left[:, :3] = True
    np.testing.assert_allclose(mask_coverage(left, (1, 4), Letterbox(8, 16).place(6, 6)), [[0, 1, 0, 0]])


def test_cells_at_points() -> None:
    for point, cell in (((1.5 / 4, 2.5 / 3), 9), ((0, 0), 0), ((0.9999, 0.9999), 11), ((1, 1), 11)):
        assert cell_at(*point, (3, 4)) == cell
