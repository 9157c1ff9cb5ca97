"""The rules of relevance in a small case, and gradients of attention against finite differences."""

import pytest
import torch
from small import CONFIG, TINY, small_weights

from detrcli.config import ModelConfig
from detrcli.data.preprocessing import collate
from detrcli.errors import UsageError
from detrcli.inference.detector import Detector
from detrcli.inspection.relevance import normalize, positive_share, relevance, relevance_of_cells
from detrcli.model.inspectable import Inspectable

BOTH = pytest.mark.parametrize("config", [CONFIG, TINY], ids=["detr", "detr-tiny"])


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
