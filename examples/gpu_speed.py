"""How fast DETR R50 is on a GPU: pictures predicted and training steps, beside transformers' DETR.

    pip install 'detrcli[bench]' && python examples/gpu_speed.py

Pictures of 800 x 1066 lie on the GPU already. Both sides in turn, as they stand, with torch.compile, and that with
CUDA graphs (our `compiled` engine), one picture at a time and sixteen; then a training step of sixteen pictures in
bf16. Random weights: the speed is that of trained ones. It prints for how long each way was prepared, and where the
CPU waits for the GPU in a step of ours. It runs for four minutes.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from timing import Way, compared, in_turn, random_weights, show, transformers_detr, transformers_learner
from torch import Tensor, nn
from torch.optim import AdamW

from detrcli.architectures import preset
from detrcli.data.dataset import Examples
from detrcli.inference.engines import ENGINES
from detrcli.structures import Batch, Target
from detrcli.system.precision import computing_in
from detrcli.training.optimiser import make_optimiser
from detrcli.training.settings import Settings
from detrcli.training.step import Trainer

ROUNDS = 10


def graphed(call: Callable[[Tensor], Any], images: Tensor) -> Callable[[Tensor], Any]:
    """A call on pictures of one size as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call(images)
    torch.cuda.current_stream().wait_stream(side)
    graph, given = torch.cuda.CUDAGraph(), images.clone()
    with torch.cuda.graph(graph):
        answer = call(given)

    def replay(pictures: Tensor) -> Any:
        given.copy_(pictures)
        graph.replay()
        return answer

    return replay


def predicting(precision: str, pictures: int, device: torch.device, size: tuple[int, int], *, compiling: bool) -> None:
    """A table of one precision and one batch size."""
    images = torch.randn(pictures, 3, *size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    checkpoint = random_weights()
    theirs = transformers_detr().to(device).eval()
    if precision == "bf16":
        theirs = theirs.to(torch.bfloat16)
    dtype = next(theirs.parameters()).dtype

    def call_theirs(pixels: Tensor) -> Any:
        with torch.inference_mode(), computing_in("fp32", device):
            return theirs(pixel_values=pixels.to(dtype))

    calls: dict[str, Callable[[Tensor], Any]] = {"transformers": call_theirs}
    if compiling:
        torch.compiler.reset()
        compiled = torch.compile(theirs, dynamic=False)

        def call_compiled(pixels: Tensor) -> Any:
            with torch.inference_mode(), computing_in("fp32", device):
                return compiled(pixel_values=pixels.to(dtype))

        prepare(calls, "transformers, compiled", lambda: call_compiled, images)
        prepare(calls, "transformers, compiled, CUDA graph", lambda: graphed(call_compiled, images), images)
    for name in ("plain", "fast", "compiled") if compiling else ("plain", "fast"):

        def ours(name: str = name) -> Callable[[Tensor], Any]:
            engine = ENGINES[name](checkpoint.model().to(device), device, precision)
            return lambda pixels: engine(Batch(pixels, None))

        prepare(calls, f"ours, {name}", ours, images)

    def timed(call: Callable[[Tensor], Any]) -> Way:
        def way() -> None:
            call(images)
            if device.type == "cuda":
                torch.cuda.synchronize()

        return way

    rows = compared(in_turn({name: timed(call) for name, call in calls.items()}, ROUNDS), "transformers")
    print(f"\n{precision}, {pictures} at a time")
    show([{**row, "pictures/s": round(1000 * pictures / row["ms"], 1)} for row in rows])


def prepare(
    calls: dict[str, Callable[[Tensor], Any]], name: str, make: Callable[[], Callable[[Tensor], Any]], images: Tensor
) -> None:
    """Add a way, if it can be made, and say for how long it was made."""
    began = time.perf_counter()
    try:
        call = make()
        call(images)
    except Exception as error:  # whatever a compiler throws, the other ways are measured
        print(f"{name}: left out: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
        return
    if images.is_cuda:
        torch.cuda.synchronize()
    print(f"{name}: prepared in {time.perf_counter() - began:.1f} s")
    calls[name] = call


def training(pictures: int, device: torch.device, size: tuple[int, int], *, compiling: bool) -> None:
    """A step of a batch in bf16."""
    chance = torch.Generator().manual_seed(0)
    images = torch.randn(pictures, 3, *size, generator=chance).contiguous(memory_format=torch.channels_last)
    targets = [
        Target(torch.randint(0, 90, (7,), generator=chance), torch.rand(7, 4, generator=chance) * 0.4 + 0.3)
        for _ in images
    ]
    examples = Examples(Batch(images.to(device), None), targets, list(range(pictures)))

    def ours(*, compiled: bool) -> Way:
        architecture, config = preset("detr-r50")
        torch.manual_seed(0)
        model = architecture.build(config).to(device)
        settings = Settings(precision="bf16", compile=compiled)
        optimiser = make_optimiser(architecture.parameter_groups(model), settings, fresh_backbone=True)
        trainer = Trainer(model, architecture.make_loss(config, architecture.loss), optimiser, settings, 100, device)
        steps = iter(range(10**6))
        return lambda: trainer.step([examples], next(steps))

    def theirs(*, compiled: bool) -> Way:
        torch.manual_seed(0)
        model = transformers_learner().to(device)
        optimiser = AdamW(model.parameters(), lr=1e-4, fused=True)
        if compiled:
            model.model.compile()  # its loss asks the CPU, which no compiler follows
        labels = [{"class_labels": t.labels.to(device), "boxes": t.boxes.to(device)} for t in targets]

        def step() -> None:
            optimiser.zero_grad()
            with torch.autocast(device.type, torch.bfloat16):
                output = model(pixel_values=examples.batch.images, labels=labels)
            output.loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimiser.step()

        return step

    ways: dict[str, Way] = {"transformers": theirs(compiled=False), "ours": ours(compiled=False)}
    if compiling:
        ways["transformers, compiled"] = theirs(compiled=True)
        ways["ours, compiled"] = ours(compiled=True)

    def timed(way: Way) -> Way:
        def whole() -> None:
            way()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return whole

    for name, way in list(ways.items()):
        began = time.perf_counter()
        try:
            way()
        except Exception as error:  # see above
            print(f"{name}: left out: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
            del ways[name]
            continue
        print(f"{name}: first step in {time.perf_counter() - began:.1f} s")
    waits: dict[str, int] = {}
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ways["ours"]()
        torch.cuda.set_sync_debug_mode("default")
        for one in caught:
            place = f"{one.filename.rpartition('/')[2]}:{one.lineno}"
            waits[place] = waits.get(place, 0) + 1
    rows = compared(in_turn({name: timed(way) for name, way in ways.items()}, ROUNDS), "transformers")
    print(f"\na training step of {pictures} pictures, bf16")
    show([{**row, "pictures/s": round(1000 * pictures / row["ms"], 1)} for row in rows], waits=waits)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1066])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--parts", nargs="+", default=["one", "many", "train"])
    parser.add_argument("--precisions", nargs="*", default=["bf16", "fp32"])
    parser.add_argument("--eager", action="store_true", help="leave out what has to be compiled")
    asked = parser.parse_args()
    compiling = not asked.eager
    device, size = torch.device(asked.device), tuple(asked.size)
    if device.type == "cuda":
        print(torch.cuda.get_device_name(), "torch", torch.__version__)
    for precision in asked.precisions:
        if "one" in asked.parts:
            predicting(precision, 1, device, size, compiling=compiling)
        if "many" in asked.parts:
            predicting(precision, asked.batch_size, device, size, compiling=compiling)
    if "train" in asked.parts:
        training(asked.batch_size, device, size, compiling=compiling)


if __name__ == "__main__":
    main()
