"""DETR against the published implementation: predictions, attention, matching, loss, gradients, detections."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from golden_rules import PIXEL, Golden, close, close_gradients, without_dropout
from torch import Tensor, nn

from detrcli.architectures import Preset, detr, preset
from detrcli.architectures.detr import DETRConfig
from detrcli.architectures.mask_heads import CONVOLUTIONAL
from detrcli.config import Preprocessing
from detrcli.inference.detector import detections
from detrcli.losses.criterion import LossBreakdown, class_error
from detrcli.losses.scoring import Softmax
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.model.masks import Segmenter
from detrcli.structures import Classes, Output, Prediction, Target

MODELS = {
    "detr-r50": preset("detr-r50"),
    "detr-r50-dc5": preset("detr-r50-dc5"),
    "detr-r50-learned-prenorm": Preset(
        detr.ARCHITECTURE, DETRConfig(position="learned", pre_norm=True, encoder_layers=3, decoder_layers=4)
    ),
    "detr-r50-panoptic": preset("detr-r50-panoptic"),
}
# For other tests, which by default run with the plain model and the model with masks only.
ON_SOME = [
    name if name in ("detr-r50", "detr-r50-panoptic") else pytest.param(name, marks=pytest.mark.slow) for name in MODELS
]


def our_name(name: str, masks: bool) -> str:
    published = CONVOLUTIONAL.published if masks else detr.ARCHITECTURE.published
    (ours,) = published.rename({name: torch.empty(0)})
    return ours


@dataclass(frozen=True)
class Run:
    """A forward and backward pass of our model with the reference's weights and inputs."""

    golden: Golden
    model: DetectionTransformer
    output: Output
    losses: LossBreakdown
    # The encoder's `memory` (B, S, C); attention of the last `encoder` layer (B, S, S) and `cross` attention (B, Q, S),
    # mean over heads; the output of the `first` decoder layer's self-attention (B, Q, C).
    seen: dict[str, Tensor]


@pytest.fixture(scope="module", params=MODELS)
def run(request: pytest.FixtureRequest) -> Run:
    golden = Golden(request.param)
    architecture, model_config = MODELS[request.param]
    model = architecture.build(model_config)
    model.load_state_dict({our_name(name, model.has_masks): value for name, value in golden.state_dict().items()})
    without_dropout(model)

    seen: dict[str, Tensor] = {}
    inner = model.detector if isinstance(model, Segmenter) else model
    watch_attention(inner.encoder.layers[-1].self_attention, "encoder", seen)
    watch_attention(inner.decoder.layers[-1].cross_attention, "cross", seen)
    inner.encoder.register_forward_hook(lambda _m, _i, memory: seen.update(memory=memory))
    inner.decoder.layers[0].self_attention.register_forward_hook(lambda _m, _i, out: seen.update(first=out[0]))

    output = model(golden.batch())
    losses = architecture.make_loss(model_config, architecture.loss).compute_loss(output, golden.targets())
    losses.total.backward()
    return Run(golden, model, output, losses, seen)


def watch_attention(attention: nn.MultiheadAttention, name: str, seen: dict[str, Tensor]) -> None:
    attention.register_forward_pre_hook(
        lambda _m, args, kwargs: (args, {**kwargs, "need_weights": True}), with_kwargs=True
    )
    attention.register_forward_hook(lambda _m, _i, out: seen.update({name: out[1]}))


def test_tensors_have_the_published_names_and_shapes(run: Run) -> None:
    theirs = {our_name(name, run.model.has_masks): shape for name, shape in run.golden.facts["state_dict"].items()}
    assert {name: list(value.shape) for name, value in run.model.state_dict().items()} == theirs
    assert sum(p.numel() for p in run.model.parameters()) == run.golden.facts["num_parameters"]


def test_predictions_of_every_layer(run: Run) -> None:
    close(run.output.decoder.logits, run.golden.arrays["pred_logits"])
    close(run.output.decoder.boxes, run.golden.arrays["pred_boxes"])


def test_masks_of_three_queries(run: Run) -> None:
    masks = run.output.last.masks
    if masks is None:
        assert not run.model.has_masks
        return
    with torch.no_grad():
        for image, theirs in enumerate(run.golden.arrays["pred_masks_queries_0_17_99"]):
            close(masks(torch.full((3,), image), torch.tensor([0, 17, 99])), theirs)


def test_memory_and_attention(run: Run) -> None:
    arrays, seen = run.golden.arrays, run.seen
    close(seen["memory"].abs().mean(), arrays["encoder_memory_mean_abs"])
    close(seen["cross"][:, [0, 17, 99]], arrays["cross_attention_last_layer_mean"])
    rows = [0, 7, seen["memory"].shape[1] // 2]
    close(seen["encoder"][:, rows], arrays["encoder_attention_last_layer_mean_rows"])


def test_every_pair(run: Run) -> None:
    for layer in range(len(run.output.decoder)):
        for image in range(len(run.golden.facts["targets_per_image"])):
            expected = run.golden.facts["matched"][f"{layer}.{image}"]
            assert run.golden.pairs(run.losses.matches["decoder"], layer, image) == expected


def test_every_loss_and_the_total(run: Run) -> None:
    names = {"class": "loss_ce", "l1": "loss_bbox", "giou": "loss_giou", "mask": "loss_mask", "dice": "loss_dice"}
    targets, decoder = run.golden.targets(), run.output.decoder
    suffixes = [*(f"_{layer}" for layer in range(len(decoder) - 1)), ""]
    ours = {"class_error": class_error(Softmax(), decoder, run.losses.matches["decoder"], targets).item()}
    for layer, suffix in enumerate(suffixes):
        ours["cardinality_error" + suffix] = cardinality_error(decoder.layer(layer), targets)
        for term, values in run.losses.layers["decoder"].items():
            if suffix and term in ("mask", "dice"):
                assert values[layer] == 0
            else:
                ours[names[term] + suffix] = values[layer].item()
    assert ours == pytest.approx(run.golden.facts["losses"], rel=1e-5, abs=1e-5)
    assert run.losses.total.item() == pytest.approx(run.golden.facts["total"], rel=1e-5, abs=1e-5)


def cardinality_error(prediction: Prediction, targets: list[Target]) -> float:
    """The mean difference of the number of queries that predict an object and the number of objects."""
    predicted = (Softmax().top_class(prediction.logits) >= 0).sum(1)  # (B,)
    present = torch.tensor([len(target) for target in targets])  # (B,)
    return (predicted - present).abs().float().mean().item()


def test_every_gradient(run: Run) -> None:
    theirs = run.golden.facts["grad_norms"].items()
    close_gradients(run.model, {our_name(name, run.model.has_masks): norm for name, norm in theirs})


def test_postprocessing(run: Run) -> None:
    count = run.output.decoder.logits.shape[-1] - 1
    every_index = Classes(ids=np.arange(count), names=np.arange(count).astype(str))
    arrays = run.golden.arrays
    for i, found in enumerate(detections(run.output.last, [(480, 640)] * 2, every_index, Softmax(), Preprocessing())):
        close(found.boxes, arrays["post_boxes"][i], PIXEL)
        close(found.scores, arrays["post_scores"][i])
        np.testing.assert_array_equal(found.category_ids, arrays["post_labels"][i])
        np.testing.assert_array_equal(found.queries, np.arange(100))


def test_first_decoder_self_attention_has_the_same_output_for_all_queries(run: Run) -> None:
    """Its values are zero, or constant with pre-norm."""
    gathered = run.seen["first"]  # (B, Q, C)
    assert gathered.abs().max() > 0.01
    close(gathered, gathered[:, :1].expand_as(gathered).detach().numpy(), 1e-5)
