"""Measure inference and training of DETR R50 on a GPU, compared with transformers.

    pip install 'detrcli[bench]' && python examples/gpu_speed.py

Images of 800 x 1066 are already on the GPU. Both sides alternate: eager, with torch.compile, and with torch.compile
and CUDA graphs (our `compiled` engine), for one image and for sixteen; then a training step of sixteen images in bf16.
Weights are random, which does not affect the speed. Prints the preparation time of each variant, and where the CPU
waits for the GPU in our training step. Takes four minutes.
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
from detrcli.system.devices import computing_in
from detrcli.training.settings import Settings
from detrcli.training.step import Trainer, make_optimizer

ROUNDS = 10


def graphed(call: Callable[[Tensor], Any], images: Tensor) -> Callable[[Tensor], Any]:
    """Capture a call on images of one size as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call(images)
    torch.cuda.current_stream().wait_stream(side)
    graph, static_input = torch.cuda.CUDAGraph(), images.clone()
    with torch.cuda.graph(graph):
        output = call(static_input)

    def replay(pixels: Tensor) -> Any:
        static_input.copy_(pixels)
        graph.replay()
        return output

    return replay


def predicting(precision: str, count: int, device: torch.device, size: tuple[int, int], *, compiling: bool) -> None:
    """Print the table of a precision and a batch size."""
    images = torch.randn(count, 3, *size, device=device)
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

    ways = {name: synchronized(lambda call=call: call(images), device) for name, call in calls.items()}
    print(f"\n{precision}, {count} at a time")
    show(compared_per_image(ways, count))


def synchronized(way: Way, device: torch.device) -> Way:
    """Return a function that calls `way` and waits for the GPU."""

    def call() -> None:
        way()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return call


def compared_per_image(ways: dict[str, Way], count: int) -> list[dict[str, Any]]:
    rows = compared(in_turn(ways, ROUNDS), "transformers")
    return [{**row, "images/s": round(1000 * count / row["ms"], 1)} for row in rows]


def prepare(
    calls: dict[str, Callable[[Tensor], Any]], name: str, make: Callable[[], Callable[[Tensor], Any]], images: Tensor
) -> None:
    """Create a call and print the time it took; leave it out with a message if that fails."""
    start = time.perf_counter()
    try:
        call = make()
        call(images)
    except Exception as error:  # compilers raise anything; the other variants are still measured
        print(f"{name}: left out: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
        return
    if images.is_cuda:
        torch.cuda.synchronize()
    print(f"{name}: prepared in {time.perf_counter() - start:.1f} s")
    calls[name] = call


def training(count: int, device: torch.device, size: tuple[int, int], *, compiling: bool) -> None:
    """Print the table of a training step in bf16."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, *size, generator=generator).contiguous(memory_format=torch.channels_last)
    targets = [
        Target(torch.randint(0, 90, (7,), generator=generator), torch.rand(7, 4, generator=generator) * 0.4 + 0.3)
        for _ in images
    ]
    examples = Examples(Batch(images.to(device), None), targets, list(range(count)))

    def ours(*, compiled: bool) -> Way:
        architecture, config = preset("detr-r50")
        torch.manual_seed(0)
        model = architecture.build(config).to(device)
        settings = Settings(precision="bf16", compile=compiled)
        optimizer = make_optimizer(architecture.parameter_groups(model), settings, fresh_backbone=True)
        trainer = Trainer(model, architecture.make_loss(config, architecture.loss), optimizer, settings, 100, device)
        steps = iter(range(10**6))
        return lambda: trainer.step([examples], next(steps))

    def theirs(*, compiled: bool) -> Way:
        torch.manual_seed(0)
        model = transformers_learner().to(device)
        optimizer = AdamW(model.parameters(), lr=1e-4, fused=True)
        if compiled:
            model.model.compile()  # without its loss, which uses the CPU and cannot be compiled
        labels = [{"class_labels": t.labels.to(device), "boxes": t.boxes.to(device)} for t in targets]

        def step() -> None:
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16):
                output = model(pixel_values=examples.batch.images, labels=labels)
            output.loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()

        return step

    ways: dict[str, Way] = {"transformers": theirs(compiled=False), "ours": ours(compiled=False)}
    if compiling:
        ways["transformers, compiled"] = theirs(compiled=True)
        ways["ours, compiled"] = ours(compiled=True)

    for name, way in list(ways.items()):
        start = time.perf_counter()
        try:
            way()
        except Exception as error:  # as above
            print(f"{name}: left out: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
            del ways[name]
            continue
        print(f"{name}: first step in {time.perf_counter() - start:.1f} s")
    waits: dict[str, int] = {}
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ways["ours"]()
        torch.cuda.set_sync_debug_mode("default")
        for warning in caught:
            place = f"{warning.filename.rpartition('/')[2]}:{warning.lineno}"
            waits[place] = waits.get(place, 0) + 1
    print(f"\na training step of {count} images, bf16")
    timed = {name: synchronized(way, device) for name, way in ways.items()}
    show(compared_per_image(timed, count), waits=waits)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1066])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--parts", nargs="+", default=["one", "many", "train"])
    parser.add_argument("--precisions", nargs="*", default=["bf16", "fp32"])
    parser.add_argument("--eager", action="store_true", help="leave out compiled variants")
    args = parser.parse_args()
    compiling = not args.eager
    device, size = torch.device(args.device), tuple(args.size)
    if device.type == "cuda":
        print(torch.cuda.get_device_name(), "torch", torch.__version__)
    for precision in args.precisions:
        if "one" in args.parts:
            predicting(precision, 1, device, size, compiling=compiling)
        if "many" in args.parts:
            predicting(precision, args.batch_size, device, size, compiling=compiling)
    if "train" in args.parts:
        training(args.batch_size, device, size, compiling=compiling)


if __name__ == "__main__":
    main()
