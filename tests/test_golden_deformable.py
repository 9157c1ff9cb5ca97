"""Deformable DETR and DINO against the published implementations: every layer, group, pair, loss and gradient."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_rules import PIXEL, VALUE, Golden, close, close_gradients, without_dropout

from detrcli.architectures import preset
from detrcli.architectures.deformable_detr import deformable_name
from detrcli.architectures.detr import rename
from detrcli.architectures.dino import RULES as DINO_RULES
from detrcli.checkpoints.load import load_checkpoint
from detrcli.inference.detector import detections
from detrcli.inference.engines import FastEngine
from detrcli.losses.criterion import LossBreakdown, class_error
from detrcli.model.denoising import Noise
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.model.dino import DINO
from detrcli.structures import Classes, Detections, Output, QueryGroup

DEFORMABLE = ("deformable-detr-r50", "deformable-detr-r50-refine-two-stage")
NAMES = (*DEFORMABLE, "dino-r50-4scale")
LOSSES = {"class": "loss_ce", "l1": "loss_bbox", "giou": "loss_giou"}


@dataclass(frozen=True)
class Run:
    """A forward and backward pass of our model with the reference's weights and inputs."""

    golden: Golden
    model: DetectionTransformer
    output: Output
    losses: LossBreakdown


def built(golden: Golden) -> DetectionTransformer:
    """Return our model with the reference's weights, in training mode without dropout."""
    architecture, config = preset(golden.name)
    model = architecture.build(config)
    model.load_state_dict(architecture.published.rename(golden.state_dict()))
    without_dropout(model)
    if isinstance(model, DINO):
        model.denoising.draw = given_noise(golden)  # type: ignore[method-assign]  # the reference's draws
    return model


def given_noise(golden: Golden) -> Callable[[int, torch.device], Noise]:
    arrays = {name: torch.from_numpy(golden.arrays[f"dn_draw_{name}"]) for name in ("p", "labels", "sign", "part")}

    def draw(rows: int, _device: torch.device) -> Noise:
        assert rows == len(arrays["p"])
        labels = torch.zeros(rows, dtype=torch.long)
        labels[arrays["p"] < 0.25] = arrays["labels"].long()
        return Noise(arrays["p"], labels, 2 * arrays["sign"].float() - 1, arrays["part"])

    return draw


def loss_of(golden: Golden, output: Output) -> LossBreakdown:
    architecture, config = preset(golden.name)
    return architecture.make_loss(config, architecture.loss).compute_loss(output, golden.targets())


@pytest.fixture(scope="module", params=NAMES)
def run(request: pytest.FixtureRequest) -> Run:
    golden = Golden(request.param)
    model = built(golden)
    output = model(golden.batch(), golden.targets())
    losses = loss_of(golden, output)
    losses.total.backward()
    return Run(golden, model, output, losses)


def test_tensors_are_the_published_ones(run: Run) -> None:
    only_trained = run.golden.name.startswith("dino")
    counts = [p.numel() for p in run.model.parameters() if p.requires_grad or not only_trained]
    assert sum(counts) == run.golden.facts["num_parameters"]


def test_every_pair(run: Run) -> None:
    for name, theirs in run.golden.facts["matched"].items():
        layer, image = name.split(".")
        group, number = ("proposals", 0) if layer == "interm" else ("decoder", int(layer))
        assert run.golden.pairs(run.losses.matches[group], number, int(image)) == theirs, name


def test_every_loss_and_the_total(run: Run) -> None:
    facts = run.golden.facts
    suffixes = {"decoder": "", "denoising": "_dn", "proposals": "_interm"}
    if run.golden.name in DEFORMABLE:
        suffixes["proposals"] = "_enc"
    ours = {
        LOSSES[term] + suffixes[group] + ("" if layer == len(values) - 1 else f"_{layer}"): value
        for group, terms in run.losses.layers.items()
        for term, values in terms.items()
        for layer, value in enumerate(values.tolist())
    }
    # Their other losses have no weight. The cardinality error counts the last class as background.
    theirs = {name: value for name, value in facts["losses"].items() if name.startswith(tuple(LOSSES.values()))}
    assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)
    assert run.losses.total.item() == pytest.approx(facts["total"], rel=1e-5, abs=1e-5)
    architecture, config = preset(run.golden.name)
    scoring = architecture.scoring(config)
    error = class_error(scoring, run.output.decoder, run.losses.matches["decoder"], run.golden.targets())
    assert error.item() == facts["losses"]["class_error"]


def test_every_gradient(run: Run) -> None:
    names = run.golden.facts["state_dict"]
    is_dino = run.golden.name.startswith("dino")
    ours = {name: rename(name, DINO_RULES) if is_dino else deformable_name(name, names) for name in names}
    close_gradients(run.model, {ours[name]: norm for name, norm in run.golden.facts["grad_norms"].items()})


@pytest.mark.parametrize("run", DEFORMABLE, indirect=True)
def test_every_layer_and_the_proposals_of_deformable_detr(run: Run) -> None:
    arrays = run.golden.arrays
    close(run.output.decoder.logits, arrays["pred_logits"])
    close(run.output.decoder.boxes, arrays["pred_boxes"])
    if "enc_boxes" in arrays:
        (proposals,) = (group for group in run.output.groups if group.name == "proposals")
        close(proposals.logits[0, :, :, :3], arrays["enc_logits"])
        close(proposals.boxes[0], arrays["enc_boxes"])


@pytest.mark.parametrize("run", DEFORMABLE, indirect=True)
def test_postprocessing_of_deformable_detr(run: Run) -> None:
    arrays = run.golden.arrays
    for i, detection in enumerate(detected(run.golden, run.output)):
        # Near-equal scores change places: pairs of label and box are compared where neighbors differ.
        gaps = np.abs(np.diff(arrays["post_scores"][i], prepend=np.inf, append=-np.inf))
        clear = (gaps[:-1] > 1e-5) & (gaps[1:] > 1e-5)
        assert clear.sum() > 10  # many scores are almost 1 here
        check_detection(detection, arrays, i, clear)


def check_detection(detection: Detections, arrays: Mapping[str, np.ndarray], image: int, clear: np.ndarray) -> None:
    """Compare the scores, and classes and boxes where the order is clear."""
    close(detection.scores, arrays["post_scores"][image])
    assert (detection.category_ids[clear] == arrays["post_labels"][image][clear]).all()
    close(detection.boxes[clear], arrays["post_boxes"][image][clear], PIXEL)


def detected(golden: Golden, output: Output) -> list[Detections]:
    architecture, config = preset(golden.name)
    scoring, preprocessing = architecture.scoring(config), architecture.preprocessing
    every_index = Classes(ids=np.arange(91), names=np.arange(91).astype(str))
    with torch.no_grad():
        return [*detections(output.last, [(480, 640)] * 2, every_index, scoring, preprocessing)]


@pytest.mark.parametrize("run", ["dino-r50-4scale"], indirect=True)
def test_the_denoising_queries_of_dino(run: Run) -> None:
    arrays, facts = run.golden.arrays, run.golden.facts
    noisy = run.model.denoising(run.golden.targets(), 900)
    assert noisy.contents.shape[1] == facts["dn_meta"]["pad_size"]
    close(noisy.references, arrays["dn_reference_unsigmoid"])
    close(noisy.contents.sum(-1), arrays["dn_query_content_sum"])
    assert (noisy.attn_mask.numpy() == arrays["dn_attn_mask"].astype(bool)).all()
    for image in range(2):
        assert run.golden.pairs(noisy.match(1), 0, image) == facts["dn_matched"][str(image)]


def close_layers(group: QueryGroup, arrays: Mapping[str, np.ndarray], prefix: str) -> None:
    close(group.logits.amax(-1), arrays[f"{prefix}pred_logits_max"])
    close(group.logits.mean(-1), arrays[f"{prefix}pred_logits_mean"])
    close(group.boxes, arrays[f"{prefix}pred_boxes"])


@pytest.mark.parametrize("run", ["dino-r50-4scale"], indirect=True)
def test_every_layer_of_dino_in_training(run: Run) -> None:
    arrays, facts = run.golden.arrays, run.golden.facts
    groups = {group.name: group for group in run.output.groups}
    for name, prefix, step in (("decoder", "", facts["query_step"]), ("denoising", "dn_", facts["dn_query_step"])):
        close(groups[name].logits[:, :, ::step], arrays[f"{prefix}pred_logits_queries"])
        close_layers(groups[name], arrays, prefix)
    proposals = groups["proposals"]
    close(proposals.logits[0, :, :: facts["query_step"]], arrays["interm_logits_queries"])
    close(proposals.logits[0].amax(-1), arrays["interm_logits_max"])
    close(proposals.boxes[0], arrays["interm_boxes"])
    memory = run.output.named["memory"]  # (B, S, C)
    close(memory[:, [0, 7, memory.shape[1] // 2]], arrays["encoder_memory_rows"])
    close(memory.abs().mean((1, 2)), arrays["encoder_memory_mean_abs"])


@pytest.mark.parametrize("run", ["dino-r50-4scale"], indirect=True)
def test_the_selection_of_dino(run: Run) -> None:
    arrays = run.golden.arrays
    with torch.no_grad():
        batch = run.golden.batch()
        pyramid = run.model.pyramid(run.model.backbone(batch.images), batch)
        logits, _, _ = run.model.selection.proposer(run.output.named["memory"], pyramid)
    assert (pyramid.padding.numpy() == arrays["token_padded"].astype(bool)).all()
    scores = logits.amax(-1)
    close(scores, arrays["token_scores"])
    best = scores.topk(900, 1).indices.numpy()
    inside = ~np.take_along_axis(arrays["token_padded"].astype(bool), arrays["topk_indices"], 1)
    assert (best[inside] == arrays["topk_indices"][inside]).all()


def test_dino_evaluated() -> None:
    golden = Golden("dino-r50-4scale")
    arrays, facts = golden.arrays, golden.facts
    with torch.no_grad():
        output = built(golden).eval()(golden.batch())
    decoder = output.decoder
    close(decoder.logits[-1, :, :: facts["query_step"]], arrays["eval_pred_logits_queries"])
    close_layers(decoder, arrays, "eval_")
    assert loss_of(golden, output).total.item() == pytest.approx(facts["eval_total"], rel=1e-5)
    for i, detection in enumerate(detected(golden, output)):
        clear = arrays["post_clear"][i].astype(bool)
        assert len(detection) == 300
        check_detection(detection, arrays, i, clear)
        assert (detection.queries[clear] == arrays["post_queries"][i][clear]).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_the_fast_engine(name: str) -> None:
    golden = Golden(name)
    model, batch = built(golden).eval(), golden.batch()
    fast = FastEngine(model, torch.device("cpu"))(batch)
    with torch.no_grad():
        plain = model(batch).last
    torch.testing.assert_close(fast.logits.sigmoid(), plain.logits.sigmoid(), rtol=0, atol=VALUE)
    torch.testing.assert_close(fast.boxes, plain.boxes, rtol=0, atol=VALUE)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_a_published_file_is_recognized(name: str, tmp_path: Path) -> None:
    """By its tensors and the script's arguments, under any file name."""
    path = tmp_path / "checkpoint0049.pth"
    args = argparse.Namespace(nheads=8, dropout=preset(name).config.dropout)  # type: ignore[attr-defined]
    torch.save({"model": Golden(name).state_dict(), "args": args}, path)
    checkpoint = load_checkpoint(str(path))
    assert checkpoint.config == preset(name).config
    model = checkpoint.model().eval()
    with torch.no_grad():
        ours, theirs = model(Golden(name).batch()), built(Golden(name)).eval()(Golden(name).batch())
    assert torch.equal(ours.last.boxes, theirs.last.boxes)
