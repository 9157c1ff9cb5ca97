"""Closed-set detectors, compared with transformers: predictions, those of every layer, attention, the matching."""

from pathlib import Path
from typing import Any

import numpy as np
import phrases
import pytest
import torch
import torch.nn.functional as F
from families import NAMES, images, processor_of
from transformers import AutoImageProcessor, AutoModelForObjectDetection
from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher
from transformers.loss.loss_for_object_detection import HungarianMatcher as TheirMatcher
from transformers.loss.loss_lw_detr import LwDetrHungarianMatcher
from transformers.loss.loss_rt_detr import RTDetrHungarianMatcher

from detrcli.architectures.adapters.attention import TransformersInspectable, TransformersRecord, by_level
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.data.preprocessing import collate, prepare
from detrcli.inference.detector import Detector
from detrcli.inspection.walk import trace_steps
from detrcli.losses.matching import HungarianMatcher
from detrcli.model.inspectable import Dense, Sampled
from detrcli.structures import Batch, QueryGroup, Target

SLOW, CPU = pytest.mark.slow, torch.device("cpu")
# Those whose input sizes vary, and which take a padding mask.
PADDED = [
    name for name in NAMES
    if str(getattr(name, "values", [name])[0]).startswith(("deformable", "conditional", "dab", "table"))
]  # fmt: skip


def batch_of(checkpoint: Checkpoint) -> Batch:
    return collate([prepare(next(images()), checkpoint.preprocessing)])


def target(*labels: int) -> Target:
    boxes = torch.rand(len(labels), 4, generator=torch.Generator().manual_seed(1)) * 0.3 + 0.2
    return Target(torch.tensor(labels, dtype=torch.long), boxes)


def test_predictions(name: str, folder: Path, checkpoint: Checkpoint) -> None:
    ours = Detector(checkpoint, CPU).predict(list(images()), threshold=0.0)
    network, processor = AutoModelForObjectDetection.from_pretrained(folder).eval(), processor_of(name)
    for image, detections in zip(images(), ours, strict=True):
        with torch.no_grad():
            output = network(processor(images=image, return_tensors="pt")["pixel_values"])
        (expected,) = processor.post_process_object_detection(
            output, threshold=0.0, target_sizes=[(image.height, image.width)]
        )
        assert len(detections) == len(expected["scores"])
        theirs = {key: value.numpy() for key, value in expected.items()}
        if name == "rf":  # clipped to the image, as by the package rfdetr
            limits = image.width, image.height, image.width, image.height
            theirs["boxes"] = theirs["boxes"].clip(0, limits)
        if checkpoint.config.family.scoring == "softmax":  # in the order of the queries
            order = np.arange(len(detections))
        else:
            order = matching_order(detections, theirs)
        np.testing.assert_allclose(detections.scores[order], theirs["scores"], atol=1e-4)
        np.testing.assert_allclose(detections.boxes[order], theirs["boxes"], atol=0.05)
        assert (detections.category_ids[order] == theirs["labels"]).all()


def matching_order(detections: Any, theirs: dict[str, np.ndarray]) -> np.ndarray:
    """Return the order of the nearest boxes of the same class, since nearly equal scores may be exchanged."""
    distance = np.abs(detections.boxes[:, None] - theirs["boxes"][None]).max(-1)  # (N, N)
    distance += 1e3 * (detections.category_ids[:, None] != theirs["labels"][None])
    order = distance.argmin(0)
    assert sorted(order) == list(range(len(detections)))
    return order


@pytest.mark.parametrize("name", [*NAMES, *phrases.NAMES], indirect=True)
def test_batches_do_not_change_predictions(name: str, checkpoint: Checkpoint) -> None:
    detector = Detector(checkpoint, CPU, engine="plain")
    several = [*images()][:1] * 2 + [*images()][2:]
    together = detector.predict(several, threshold=0.0, batch_size=3)
    alone = [detector.predict(image, threshold=0.0) for image in several]
    for a, b in zip(together, alone, strict=True):
        order = np.arange(len(a))
        if not phrases.are_taken_by(name):
            order = matching_order(a, {"boxes": b.boxes, "labels": b.category_ids})
        np.testing.assert_allclose(a.scores[order], b.scores, atol=1e-4)
        np.testing.assert_allclose(a.boxes[order], b.boxes, atol=0.05)


@pytest.mark.parametrize("name", PADDED, indirect=True)
def test_padding(folder: Path, checkpoint: Checkpoint) -> None:
    """A batch is padded and masked as by the processor."""
    several = list(images())[:2]
    theirs = AutoImageProcessor.from_pretrained(folder)(images=several, return_tensors="pt")
    batch = collate([prepare(image, checkpoint.preprocessing) for image in several])
    assert batch.padding is not None
    assert torch.equal(batch.images, theirs["pixel_values"])
    network = AutoModelForObjectDetection.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = network(pixel_values=theirs["pixel_values"], pixel_mask=theirs["pixel_mask"])
        ours = checkpoint.model()(batch).last
    torch.testing.assert_close(ours.logits, expected.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.boxes, expected.pred_boxes, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [*NAMES, "grounding", pytest.param("mm-grounding", marks=SLOW)], indirect=True)
@torch.no_grad()
def test_earlier_layers_are_those_of_a_shallower_model(name: str, checkpoint: Checkpoint) -> None:
    """A model without its second layer predicts what the first layer of the whole model predicts."""
    model = checkpoint.model()
    decoder = model(batch_of(checkpoint)).decoder
    first = decoder.layer(0)
    assert len(decoder) == 2
    assert not torch.allclose(decoder.logits[0], decoder.logits[1], atol=1e-4)
    network: Any = model.network
    if name == "yolos":
        network.vit.encoder.layer = network.vit.encoder.layer[:1]
        network.config.num_hidden_layers = 1
    else:
        network.model.decoder.layers = network.model.decoder.layers[:1]
        network.model.decoder.num_layers = network.config.decoder_layers = 1
    output = model(batch_of(checkpoint))
    assert len(output.decoder) == 1
    torch.testing.assert_close(first.boxes, output.last.boxes, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(first.logits, output.last.logits, atol=1e-5, rtol=1e-5)


def recorded(checkpoint: Checkpoint) -> tuple[TransformersInspectable, TransformersRecord]:
    model = checkpoint.model()
    inspected = TransformersInspectable(model)
    with torch.inference_mode(), inspected.recorded() as record:
        model(batch_of(checkpoint))
    return inspected, record


def from_points(module: Any, sampled: Sampled, given: dict[str, Any]) -> torch.Tensor:
    """Compute the output of attention by sampled points from the weights that are shown."""
    total = sampled.weights.flatten(3).sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)
    project = hasattr(module, "value_proj")
    values = module.value_proj(given["encoder_hidden_states"]) if project else given["encoder_hidden_states"]
    if given.get("attention_mask") is not None:
        values = values.masked_fill(~given["attention_mask"][..., None], 0.0)
    sizes = [(int(h), int(w)) for h, w in given["spatial_shapes_list"]]
    by_head = values.unflatten(2, (module.n_heads, -1)).permute(0, 2, 3, 1).flatten(0, 1)  # (B * heads, c, S)
    combined = 0.0
    for level, (map_, size) in enumerate(zip(by_head.split([h * w for h, w in sizes], 2), sizes, strict=True)):
        places = sampled.points[:, :, :, level].transpose(1, 2).flatten(0, 1) * 2 - 1  # (B * heads, n, P, 2)
        at_points = F.grid_sample(map_.unflatten(2, size), places, align_corners=False)  # (B * heads, c, n, P)
        at_points = at_points.unflatten(0, (-1, module.n_heads))
        combined = combined + torch.einsum("bhcnp,bnhp->bnhc", at_points, sampled.weights[:, :, :, level])
    flat = combined.flatten(2)
    return module.output_proj(flat) if project else flat


def from_cells(module: Any, shares: torch.Tensor, given: dict[str, Any]) -> torch.Tensor:
    """Compute the output of dense attention with weights (B, heads, A, S)."""
    names = ("value_states", "values", "key_value_states", "encoder_hidden_states", "hidden_states")
    values = next(given[name] for name in names if given.get(name) is not None)
    project = getattr(module, "v_proj", getattr(module, "value", None))
    values = values if project is None else project(values)
    flat = (shares @ values.unflatten(2, (shares.shape[1], -1)).transpose(1, 2)).transpose(1, 2).flatten(2)
    ends = (getattr(module, name, None) for name in ("o_proj", "out_proj", "output_proj"))
    return next((end for end in ends if end is not None), torch.nn.Identity())(flat)


@pytest.mark.parametrize("name", [*NAMES, *phrases.NAMES], indirect=True)
@torch.no_grad()
def test_attention_is_what_the_modules_compute(checkpoint: Checkpoint) -> None:
    """Weights sum to 1, and combine the values to the module's own output."""
    inspected, record = recorded(checkpoint)
    assert inspected.cross
    for module in inspected.attentions:
        call = record.calls[module]
        output = call.module(**call.inputs)
        expected = output if isinstance(output, torch.Tensor) else output[0]
        if hasattr(module, "sampling_offsets"):
            combined = from_points(module, call.sampled(), call.inputs)
        else:
            _, weights = call.repeat()  # (B, heads, A, S)
            torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]), atol=1e-5, rtol=0)
            combined = from_cells(module, weights, call.inputs)
        torch.testing.assert_close(combined, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["owlv2"], indirect=True)
@torch.no_grad()
def test_attention_of_a_patch(checkpoint: Checkpoint) -> None:
    """Query N of OWLv2 is cell N, and its attention is that of its token in the last layer."""
    inspected, record = recorded(checkpoint)
    assert record.cells == (4, 4)
    assert (inspected.decoder_layers, inspected.attention_name) == (1, "self-attention in the encoder's last layer")
    _, weights = record.calls[inspected.cross[0]].repeat()  # (1, heads, 17, 17), the class token first
    expected = weights[:, :, 6, 1:] / weights[:, :, 6, 1:].sum(-1, keepdim=True)
    torch.testing.assert_close(record.cross(0, [5]).density().flatten(3)[:, 0], expected)
    torch.testing.assert_close(record.encoder(1, [5]).density(), record.cross(0, [5]).density())
    assert not torch.allclose(record.encoder(0, [5]).density(), record.cross(0, [5]).density())


@torch.no_grad()
def test_maps_of_queries_and_cells(checkpoint: Checkpoint) -> None:
    inspected, record = recorded(checkpoint)
    h, w = record.cells
    for layer in range(inspected.decoder_layers):
        density = record.cross(layer, [3, 0]).density()
        assert density.shape == (1, 2, inspected.heads, h, w)
        torch.testing.assert_close(density.sum((3, 4)), torch.ones(1, 2, inspected.heads), atol=1e-4, rtol=0)
        among = record.among_queries(layer)
        assert among.shape == (1, among.shape[1], 20, 20)
        torch.testing.assert_close(among.sum(-1), torch.ones(among.shape[:-1]), atol=1e-5, rtol=0)
    for layer in range(inspected.encoder_layers):
        assert record.encoder(layer, [0, 5]).density().shape[-2:] == record.encoder_cells
    assert isinstance(record.cross(0, [0]), Sampled if inspected.kind == "sampled" else Dense)


def test_levels_with_fewer_points_are_padded() -> None:
    values = torch.arange(1.0, 10.0).view(1, 1, 1, 9)
    assert by_level(values, [3, 4, 2]).tolist() == [[[[[1, 2, 3, 0], [4, 5, 6, 7], [8, 9, 0, 0]]]]]


@torch.no_grad()
def test_the_matching_is_that_of_transformers(checkpoint: Checkpoint) -> None:
    matcher = checkpoint.make_loss().matcher
    assert isinstance(matcher, HungarianMatcher)
    numbers = checkpoint.config.library_config()
    kind = checkpoint.config.model_type
    costs = [term.weight for term in matcher.terms]
    if hasattr(numbers, "matcher_class_cost"):
        theirs: Any = RTDetrHungarianMatcher(numbers)
    elif kind in ("lw_detr", "rf_detr"):
        theirs = LwDetrHungarianMatcher(*costs)
    elif checkpoint.config.family.scoring == "softmax":
        theirs = TheirMatcher(*costs)
    else:
        theirs = DeformableDetrHungarianMatcher(*costs)
    assert costs == [theirs.class_cost, theirs.bbox_cost, theirs.giou_cost]
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 3, 20, checkpoint.scoring.num_logits(5), generator=generator)
    boxes = torch.rand(2, 3, 20, 4, generator=generator) * 0.4 + 0.1
    targets = [target(0, 3, 3, 1), target(), target(4, 2)]
    match = matcher(QueryGroup("decoder", logits, boxes), targets)
    labels = [{"class_labels": target.labels, "boxes": target.boxes} for target in targets]
    starts = [0, 4, 4]
    for layer in range(2):
        more = (1,) if kind in ("lw_detr", "rf_detr") else ()
        expected = theirs({"logits": logits[layer], "pred_boxes": boxes[layer]}, labels, *more)
        pairs = {
            (image, int(query), starts[image] + int(object_))
            for image, (queries, objects) in enumerate(expected)
            for query, object_ in zip(queries, objects, strict=True)
        }
        ours = match.layer(layer)
        assert set(zip(ours.images.tolist(), ours.queries.tolist(), ours.targets.tolist(), strict=True)) == pairs


def test_groups_beside_the_decoder(name: str, checkpoint: Checkpoint) -> None:
    model = checkpoint.model()
    with torch.no_grad():
        output = model(batch_of(checkpoint), [target(1, 2)])
    names = [group.name for group in output.others]
    if checkpoint.config.family.denoises:
        assert names == ["proposals", "denoising"]
        denoising = output.others[1]
        # Every group of noise has a query for each object, in every layer.
        assert len(denoising.match.queries) == len(denoising) * 2 * (denoising.logits.shape[2] // 4)
        assert not any(module.training for module in model.modules())
    else:
        assert names == (["proposals"] if name in ("lw", "rf") else [])
    alone = model(batch_of(checkpoint)).last
    torch.testing.assert_close(output.last.boxes, alone.boxes, atol=1e-5, rtol=1e-4)


def test_the_stages(checkpoint: Checkpoint) -> None:
    detector = Detector(checkpoint, CPU, engine="plain")
    stops = trace_steps(detector, prepare(next(images()), checkpoint.preprocessing))
    shapes = {stop.name: stop.shape for stop in stops}
    assert {"backbone", "decoder"} <= shapes.keys()
    assert shapes["class head"] == (20, checkpoint.scoring.num_logits(5))
    assert shapes["box head"][0] == 20
