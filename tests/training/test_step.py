"""Training steps: independent of how a batch is divided, and equal to recorded steps."""

import json
import math
import os
import socket
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import spawn
from trainings import CPU, SMALL, Recorder, data_of, finished, new, shapes_folder

from detrcli.data.make import make_shapes
from detrcli.errors import DivergedError
from detrcli.system import distributed
from detrcli.training.interrupts import Interrupts
from detrcli.training.order import Order
from detrcli.training.settings import make_settings
from detrcli.training.state import load_state
from detrcli.training.step import StepResult, Trainer, learning_rate_factor, make_optimizer

pytestmark = pytest.mark.usefixtures("one_thread")

GOLDEN = Path(__file__).parents[1] / "golden"
# Equal sizes, no dropout and no batch norm: the images of a batch are independent of each other.
SHARED_OUT = {"augmentation": "none", "dropout": 0.0, "norm": "group", "epochs": 2, "grad_clip": 0.0, "lr": 1e-4}


folder = shapes_folder(images=12, size=32, classes=("circle", "square"), objects=2)


def steps_of(folder: Path, **chosen: Any) -> list[StepResult]:
    training, steps = new(data_of(folder), None, **chosen), []
    step = training.trainer.step
    training.trainer.step = lambda *args: steps.append(step(*args)) or steps[-1]
    finished(training)
    return steps


def of_process(rank: int, folder: Path, out: Path, port: int) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with distributed.joined(CPU):
        steps = steps_of(folder, batch_size=2, **SHARED_OUT)
        numbers = [[distributed.mean([step.numbers["loss"]])[0], step.numbers["norm"]] for step in steps]
        if rank == 0:
            out.write_text(json.dumps(numbers))
        model = finished(new(data_of(folder), None, norm="batch", epochs=1)).model
        first, second = distributed.gather([buffer.tolist() for buffer in model.buffers()])
        assert first == second, "all processes evaluate the same model"

        training = new(data_of(folder), out.parent / "diverged" if rank == 0 else None, **SHARED_OUT)
        if rank == 1:
            training.model.class_head.register_forward_hook(lambda *args: args[2] * torch.nan)
        with pytest.raises(DivergedError):
            training.run(Interrupts())
    os._exit(0)  # as the command line does; the reason is there


@pytest.fixture(scope="module")
def whole_batches(folder: Path) -> list[StepResult]:
    return steps_of(folder, batch_size=4, **SHARED_OUT)


def test_accumulated_batches_equal_one(folder: Path, whole_batches: list[StepResult]) -> None:
    halves = steps_of(folder, batch_size=2, accumulate=2, **SHARED_OUT)
    assert len(halves) == len(whole_batches) == 6
    for half, whole in zip(halves, whole_batches, strict=True):
        assert half.numbers == pytest.approx(whole.numbers, rel=1e-5)
        assert (half.images, half.objects) == (4, whole.objects)


@pytest.mark.slow
def test_two_processes_equal_one(folder: Path, whole_batches: list[StepResult], tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(of_process, (folder, tmp_path / "steps.json", port), nprocs=2)
    numbers = json.loads((tmp_path / "steps.json").read_text())
    # The loss of the second process was not finite, and the first process saved its batch.
    kept = torch.load(tmp_path / "diverged" / "diverged.pt", weights_only=True)
    order = Order(12, SMALL["batch_size"], 1, 0, rank=1, world=2)
    ids = data_of(folder).train.image_ids[torch.tensor(order.batches(0)[0])]
    assert [batch["image_ids"] for batch in kept["batches"]] == [ids.tolist()]
    state, _ = load_state(tmp_path / "diverged")
    assert (state["step"], len(state["sums"])) == (0, 2)

    assert len(numbers) == 6
    for (loss, norm), whole in zip(numbers, whole_batches, strict=True):
        assert loss == pytest.approx(whole.numbers["loss"], rel=1e-5)
        assert norm == pytest.approx(whole.numbers["norm"], rel=1e-5)


def numbers_of(folder: Path) -> dict[str, list[float]]:
    """The losses, their terms and the gradient norms of seeded steps, with augmentation and dropout."""
    steps = steps_of(folder, batch_size=3, epochs=5, ema=0.9, warmup=3, schedule="cosine")
    return {
        name.removeprefix("loss_"): [step.numbers[name] for step in steps]
        for name in ("loss", "norm", "loss_class", "loss_l1", "loss_giou")
    }


@pytest.mark.parametrize(
    ("record", "fixtures"),
    [("training-production.json", ()), ("training.json", ("pixels_by_pillow", "dropout_by_torch"))],
    ids=["as in production", "with Pillow's resizing and torch's dropout"],
)
def test_losses_are_what_they_were(
    record: str, fixtures: tuple[str, ...], folder: Path, request: pytest.FixtureRequest
) -> None:
    """`python tests/training/test_step.py` records the former, after an intended change of training."""
    for fixture in fixtures:
        request.getfixturevalue(fixture)
    recorded, now = json.loads((GOLDEN / record).read_text()), numbers_of(folder)
    assert len(now["loss"]) == 20
    assert now.keys() == recorded.keys()
    for name, values in now.items():
        assert values == pytest.approx(recorded[name], rel=2e-3), name


@pytest.mark.parametrize(
    ("given", "fresh_backbone", "rates"),
    [
        ({}, False, [1e-4, 1e-5]),
        ({"lr": 0.5}, True, [0.5, 0.5]),
        ({"lr": 0.5, "lr_backbone": 0.25}, True, [0.5, 0.25]),
    ],
)
def test_parameter_groups(given: dict[str, Any], fresh_backbone: bool, rates: list[float]) -> None:
    backbone, head = torch.nn.Linear(2, 2), torch.nn.Linear(2, 3)
    parts = {"transformer": list(head.parameters()), "backbone": [backbone.bias]}
    groups = make_optimizer(parts, make_settings(given), fresh_backbone=fresh_backbone).param_groups
    assert [(group["name"], group["lr"], len(group["params"]), group["weight_decay"]) for group in groups] == [
        ("transformer", rates[0], 2, 1e-4),
        ("backbone", rates[1], 1, 1e-4),
    ]
    settings = make_settings({**given, "weight_decay_on": "matrices"})
    decays = make_optimizer(parts, settings, fresh_backbone=fresh_backbone).param_groups
    assert [(group["name"], len(group["params"]), group["weight_decay"]) for group in decays] == [
        ("transformer", 1, 1e-4), ("transformer", 1, 0.0), ("backbone", 1, 0.0)
    ]  # fmt: skip


def test_the_rate_drops_after_two_thirds() -> None:
    chosen = make_settings({"epochs": 6})
    assert [learning_rate_factor(chosen, step, 10) for step in (0, 39)] == [1, 1]
    assert [learning_rate_factor(chosen, step, 10) for step in (40, 59)] == [pytest.approx(0.1)] * 2


def test_warmup_and_cosine() -> None:
    chosen = make_settings({"epochs": 4, "warmup": 4, "schedule": "cosine"})
    rates = [learning_rate_factor(chosen, step, 10) for step in range(40)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4] == 1
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[22] == pytest.approx(0.5)
    assert rates[-1] < 0.01


def test_clipping_uses_the_norm_of_the_whole_gradient(folder: Path) -> None:
    loose, tight = (steps_of(folder, batch_size=4, epochs=1, grad_clip=clip, lr=0.0) for clip in (0.0, 1e-6))
    assert [step.numbers["norm"] for step in loose] == pytest.approx([step.numbers["norm"] for step in tight])
    assert min(step.numbers["norm"] for step in loose) > 1e-3


def test_the_exponential_moving_average(folder: Path) -> None:
    training = new(data_of(folder), None, ema=0.8, epochs=1, batch_size=4)
    engine: Trainer = training.trainer
    name, mean = "class_head.weight", engine.ema["class_head.weight"].clone()
    batches = training.load()
    for step in range(3):
        engine.step([next(batches)], step)
        decay = min(0.8, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * training.model.state_dict()[name]
        torch.testing.assert_close(engine.ema[name], mean)
    assert torch.equal(training.weights().tensors[name], engine.ema[name])


def test_the_mean_norm_leaves_out_skipped_steps(folder: Path) -> None:
    recorder = Recorder(after={1: lambda: handle.remove()})
    training = new(data_of(folder), None, recorder, precision="fp16", epochs=1)
    handle = training.model.class_head.weight.register_hook(lambda gradient: gradient * torch.inf)
    finished(training)
    assert training.state.rows[0]["grad_norm"] is not None
    assert math.isfinite(training.state.rows[0]["grad_norm"])


@pytest.mark.parametrize("diverges", [False, True])
def test_float32_is_exact_in_a_step_and_as_before_afterwards(
    diverges: bool, folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """In the network, the loss and the gradients, although the program allows less; also in a step that diverges."""
    cuda, cpu = torch.backends.cuda.matmul, torch.backends.mkldnn
    switches = {cuda: "tf32", torch.backends.cudnn.conv: "tf32", cpu.matmul: "bf16", cpu.conv: "bf16"}
    for switch, precision in switches.items():
        request.addfinalizer(partial(setattr, switch, "fp32_precision", switch.fp32_precision))
        switch.fp32_precision = precision

    def precisions() -> list[str]:
        return [switch.fp32_precision for switch in switches]

    during = {}
    training = new(data_of(folder), None, epochs=1)
    head, compute_loss = training.model.class_head, training.loss.compute_loss

    def forward(*hooked: Any) -> torch.Tensor | None:
        during["forward"] = precisions()
        return hooked[2] * torch.nan if diverges else None

    def loss(*args: Any) -> Any:
        during["loss"] = precisions()
        return compute_loss(*args)

    head.register_forward_hook(forward)
    head.weight.register_hook(lambda _: during.update(backward=precisions()))
    monkeypatch.setattr(training.loss, "compute_loss", loss)
    with pytest.raises(DivergedError) if diverges else nullcontext():
        training.trainer.step([next(training.load())], 0)
    stages = ("forward", "loss") if diverges else ("forward", "loss", "backward")
    assert during == dict.fromkeys(stages, ["ieee"] * 4)
    assert precisions() == list(switches.values())


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=pytest.mark.slow)])
def test_lower_precisions_learn_the_same(precision: str, folder: Path) -> None:
    exact, rough = (steps_of(folder, batch_size=4, precision=kind, **SHARED_OUT) for kind in ("fp32", precision))
    assert rough[0].numbers["loss"] == pytest.approx(exact[0].numbers["loss"], rel=0.02)
    assert rough[-1].numbers["norm"] == pytest.approx(exact[-1].numbers["norm"], rel=0.5)  # without the loss scale
    for a, b in zip(exact, rough, strict=True):
        # fp16 skips steps until its loss scale fits.
        assert b.numbers["loss"] == pytest.approx(a.numbers["loss"], rel=0.1)
        assert b.last.boxes.dtype == torch.float32
        assert not torch.equal(b.last.boxes, b.last.boxes.bfloat16().float())  # not rounded to bf16


def test_the_step_is_described(folder: Path) -> None:
    step = steps_of(folder, batch_size=4, epochs=1, lr=0.0)[0]
    assert step.images == 4
    assert step.numbers["matched"] == step.objects
    assert set(step.numbers) == {"loss", "loss_class", "loss_l1", "loss_giou", "matched", "wrong", "norm"}
    assert 0 <= step.numbers["wrong"] <= step.numbers["matched"]


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) / "shapes"
        make_shapes(place, images=12, size=32, classes=("circle", "square"), objects=2)
        (GOLDEN / "training-production.json").write_text(json.dumps(numbers_of(place), indent=1) + "\n")
