"""Measure inference on one photograph on a CPU, compared with transformers and OpenVINO.

    pip install 'detrcli[bench]' && OMP_WAIT_POLICY=PASSIVE python examples/predict_speed.py

DETR R50 with random weights and one image of 640 x 480, from file to detections, alternating in one process:
transformers with its image processor in float32; our engines and precisions; the same OpenVINO model called directly.
Our commands keep large blocks of memory between images, and programs with transformers do not. Because this is much of
the difference, transformers is also measured with our memory policy. Without PASSIVE, the thread pools of torch and
OpenVINO wait for each other. Expected speedups over transformers, at least: fast 2.4, fast bf16 4.5, openvino 2.6,
openvino bf16 4.5. Takes three minutes.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openvino
import torch
from PIL import Image
from timing import allocator_as_it_is, compared, in_turn, random_weights, show, transformers_detr

from detrcli.api.benchmarking import photograph
from detrcli.errors import MachineError
from detrcli.inference.detector import Detector
from detrcli.inference.export import RUNTIMES, cached_export
from detrcli.reporter import SILENT
from detrcli.structures import Batch
from detrcli.system.allocator import keep_large_blocks

ROUNDS = 15
THEIRS = "transformers"
ENGINES = (
    ("plain", "fp32"), ("fast", "fp32"), ("fast", "bf16"), ("openvino", "fp32"), ("openvino", "bf16"), ("onnx", "fp32"),
)  # fmt: skip


def peer() -> Callable[[Path], Any]:
    """Return a function that predicts a file with transformers' DETR with random weights."""
    from transformers import DetrImageProcessor

    model, processor = transformers_detr().eval(), DetrImageProcessor()

    def predict(path: Path) -> Any:
        image = Image.open(path).convert("RGB")
        with torch.inference_mode():
            inputs = processor(images=image, return_tensors="pt")
            output = model(**inputs)
            return processor.post_process_object_detection(
                output, threshold=0.7, target_sizes=[(image.height, image.width)]
            )

    return predict


def main() -> None:
    torch.manual_seed(0)
    checkpoint = random_weights()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DETR_CACHE"] = folder
        path = Path(folder) / "image.jpg"
        photograph(path)
        theirs = peer()
        ways: dict[str, Callable[[], Any]] = {
            THEIRS: lambda: theirs(path),
            f"{THEIRS}, our memory policy": lambda: theirs(path),
        }
        detectors = {}
        for engine, precision in ENGINES:
            try:
                detector = Detector(checkpoint, "cpu", precision, engine=engine)
                detector.predict(path)
            except MachineError as error:  # the extra is not installed
                print(f"{engine} {precision} is left out: {error}")
                continue
            detectors[f"{engine} {precision}"] = detector
            ways[f"{engine} {precision}"] = lambda detector=detector: detector.predict(path)

        def prepare(name: str) -> None:
            allocator_as_it_is() if name == THEIRS else keep_large_blocks()
            ways[name]()  # fill the kept memory

        seconds = in_turn(ways, ROUNDS, prepare)
        direct = {name: beside_direct_call(detectors[name]) for name in detectors if "openvino" in name}
    show(compared(seconds, THEIRS), our_call_by_direct_call=direct)


def beside_direct_call(detector: Detector) -> float:
    """Return the time of the engine relative to a direct call of the same compiled model, alternating."""
    pixels = torch.randn(1, 3, 800, 1066)
    path = cached_export(detector.checkpoint, RUNTIMES["openvino"], detector.precision, SILENT)
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if detector.precision == "bf16" else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    request, ours, direct = openvino.Core().compile_model(path, "CPU", settings).create_infer_request(), [], []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        request.infer({0: pixels.numpy()}, share_inputs=True)
        direct.append(time.perf_counter() - start)
        start = time.perf_counter()
        detector.engine(Batch(pixels, None))
        ours.append(time.perf_counter() - start)
    return round(statistics.median(a / b for a, b in zip(ours, direct, strict=True)), 3)


if __name__ == "__main__":
    main()
