"""The input shapes for which TensorRT builds an engine, and the command that builds it elsewhere."""

from collections.abc import Mapping

from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.inference.verification import input_sizes
from detrcli.messages import argument

MAX_BATCH = 8  # images at a time

Shapes = Mapping[str, tuple[tuple[int, ...], ...]]  # minimum, usual and maximum shape of each input


def shapes_for(checkpoint: Checkpoint, postprocessing: bool) -> Shapes:
    """Return the shapes of the inputs: one image of 480 x 640 pixels, and images of all usual aspect ratios."""
    sizes = input_sizes(checkpoint)  # height and width
    smallest, largest = (tuple(map(bound, zip(*sizes, strict=True))) for bound in (min, max))
    batches = (1, smallest), (1, sizes[0]), (MAX_BATCH, largest)
    shapes: dict[str, tuple[tuple[int, ...], ...]] = {"images": tuple((count, 3, *size) for count, size in batches)}
    if postprocessing:
        shapes["sizes"] = tuple((count, 2) for count, _ in batches)
    return shapes


def trtexec_command(checkpoint: Checkpoint, precision: str, postprocessing: bool) -> str:
    """Return how to build an engine with `trtexec` on another machine."""
    shapes = shapes_for(checkpoint, postprocessing)
    options = {"onnx": "model.onnx", "saveEngine": "model.engine"}
    for i, bound in enumerate(("min", "opt", "max")):
        texts = [f"{name}:{'x'.join(map(str, bounds[i]))}" for name, bounds in shapes.items()]
        options[f"{bound}Shapes"] = ",".join(texts)
    line = " ".join(["trtexec", *(f"--{name}={value}" for name, value in options.items()), "--stronglyTyped --noTF32"])
    wanted = f"{argument('format', 'onnx')} {argument('precision', precision)}"
    return f"Or export model.onnx ({wanted}), and build the engine where TensorRT is installed:\n{line}"
