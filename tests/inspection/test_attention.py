"""What is recorded is what the published model computes, and recording changes nothing."""

import pytest
import torch
from golden_rules import VALUE, Golden
from small import CONFIG, TINY, small_weights
from test_golden import CONFIGS, close

from detrcli.data.batching import collate
from detrcli.inspection.attention import Recording, recorded
from detrcli.structures import Batch
from detrcli.variants import build
from detrcli.variants.variant import ModelConfig
from detrcli.weights.formats.names import PUBLISHED, rename

BOTH = pytest.mark.parametrize("config", [CONFIG, TINY], ids=["detr", "detr-tiny"])


def pictures() -> Batch:
    g = torch.Generator().manual_seed(0)
    return collate([torch.randn(3, 64, 96, generator=g), torch.randn(3, 72, 60, generator=g)])


def record(config: ModelConfig, batch: Batch) -> Recording:
    with recorded(small_weights(config).model()) as recording, torch.inference_mode():
        recording.model(batch)
    return recording


@pytest.mark.parametrize("name", CONFIGS)
def test_golden_attention(name: str) -> None:
    golden = Golden(name)
    model = build(CONFIGS[name]).eval()
    model.load_state_dict({rename(name, PUBLISHED): value for name, value in golden.state_dict().items()})
    with recorded(model) as recording, torch.inference_mode():
        model(golden.batch())
    cross = recording.cross(len(model.decoder.layers) - 1, [0, 17, 99])  # (B, 3, heads, h, w)
    close(cross.mean(2).flatten(2), golden.arrays["cross_attention_last_layer_mean"])
    h, w = recording.cells
    encoder = recording.encoder(len(model.encoder.layers) - 1, [0, 7, h * w // 2])
    close(encoder.mean(2).flatten(2), golden.arrays["encoder_attention_last_layer_mean_rows"])
    close(torch.stack([p.logits for p in recording.predictions]), golden.arrays["pred_logits"])
    assert recording.queries_are_alike(0)
    assert not recording.queries_are_alike(1)


@BOTH
def test_every_map_sums_to_one_and_padding_gets_nothing(config: ModelConfig) -> None:
    batch = pictures()
    recording = record(config, batch)
    h, w = recording.cells
    padded = torch.nn.functional.interpolate(batch.padding[None].float(), (h, w))[0].bool()  # (B, h, w)
    for layer in range(len(recording.model.decoder.layers)):
        maps = recording.cross(layer, [8, 2])
        assert maps.shape == (2, 2, 4, h, w)
        torch.testing.assert_close(maps.sum((-2, -1)), torch.ones(2, 2, 4))
        assert padded.any()
        assert (maps.amax((1, 2))[padded] == 0).all()
    torch.testing.assert_close(recording.encoder(0, [3]).sum((-2, -1)), torch.ones(2, 1, 4))
    among = recording.among_queries(1)
    assert among.shape == (2, 4, 9, 9)
    torch.testing.assert_close(among.sum(-1), torch.ones(2, 4, 9))


@BOTH
def test_a_map_is_that_of_its_query(config: ModelConfig) -> None:
    """Asked one by one, together and in another order; and as the formula says, by hand."""
    recording = record(config, pictures())
    together = recording.cross(1, range(9))
    for query in (0, 5, 8):
        torch.testing.assert_close(recording.cross(1, [query])[:, 0], together[:, query])
    torch.testing.assert_close(recording.cross(1, [7, 1]), together[:, [7, 1]])

    call = recording.calls["decoder.layers.1.cross_attention"]
    module = call.attention
    with torch.inference_mode():
        dim = module.embed_dim
        q = call.queries @ module.in_proj_weight[:dim].T + module.in_proj_bias[:dim]  # (B, Q, C)
        k = call.keys @ module.in_proj_weight[dim : 2 * dim].T + module.in_proj_bias[dim : 2 * dim]
        width = dim // 4
        head = slice(2 * width, 3 * width)
        scores = q[..., head] @ k[..., head].mT / width**0.5  # (B, Q, S)
        by_hand = scores.masked_fill(call.padding[:, None], -torch.inf).softmax(-1)
    torch.testing.assert_close(together[:, :, 2].flatten(2), by_hand, rtol=0, atol=VALUE)


@BOTH
def test_recording_changes_nothing(config: ModelConfig) -> None:
    batch, model = pictures(), small_weights(config).model()
    with torch.inference_mode():
        before = model(batch)
        with recorded(model) as recording:
            within = model(batch)
        recording.cross(0, [0])
        after = model(batch)
    for output in (within, after):
        assert torch.equal(output.last.logits, before.last.logits)
        assert torch.equal(output.last.boxes, before.last.boxes)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_an_error_leaves_no_hooks() -> None:
    model = small_weights().model()
    with pytest.raises(ZeroDivisionError), recorded(model):
        raise ZeroDivisionError
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_contents_of_the_small_model_differ_from_the_start() -> None:
    assert record(CONFIG, pictures()).queries_are_alike(0)
    assert not record(TINY, pictures()).queries_are_alike(0)
