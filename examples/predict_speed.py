"""How fast one photograph is predicted, beside transformers' DETR and OpenVINO.

    pip install 'detrcli[bench]' && OMP_WAIT_POLICY=PASSIVE python examples/predict_speed.py

R50 of random weights and one picture of 640 x 480 pixels from file to detections, in one process and in turn:
transformers with its own image processor, in float32; our engines and precisions; the same OpenVINO model called by
hand. Our commands keep large blocks of memory between pictures, and a program that uses transformers does not; since
that is much of the difference, transformers is also measured with memory kept. Without PASSIVE the thread pools of
torch and OpenVINO wait for each other. Expected, as ratios to transformers as it is, at least: fast 2.4, fast bf16
4.5, openvino 2.6, openvino bf16 4.5. It runs for three minutes.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timing import allocator_as_it_is, compared, in_turn, random_weights, show, transformers_detr

from detrcli.api.benchmarking import photograph
from detrcli.errors import MachineError
from detrcli.inference.detector import Detector
from detrcli.structures import Batch
from detrcli.system.allocator import keep_large_blocks

ROUNDS = 15
THEIRS = "transformers"
ENGINES = (
    ("plain", "fp32"),
    ("fast", "fp32"),
    ("fast", "bf16"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("onnx", "fp32"),
)


def peer() -> Callable[[Path], Any]:
    """Transformers' DETR with random weights, a file to detections."""
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
        path = Path(folder) / "picture.jpg"
        photograph(path)
        theirs = peer()
        ways: dict[str, Callable[[], Any]] = {
            THEIRS: lambda: theirs(path),
            f"{THEIRS}, memory kept": lambda: theirs(path),
        }
        detectors = {}
        for engine, precision in ENGINES:
            try:
                detector = Detector(checkpoint, "cpu", precision, engine)
                detector.predict(path)
            except MachineError as error:  # an extra that is not installed
                print(f"{engine} {precision} is left out: {error}")
                continue
            detectors[f"{engine} {precision}"] = detector
            ways[f"{engine} {precision}"] = lambda detector=detector: detector.predict(path)

        def prepare(name: str) -> None:
            allocator_as_it_is() if name == THEIRS else keep_large_blocks()
            ways[name]()  # so that what is kept is there

        seconds = in_turn(ways, ROUNDS, prepare)
        by_hand = {name: beside_by_hand(detectors[name]) for name in detectors if "openvino" in name}
    show(compared(seconds, THEIRS), our_call_beside_by_hand=by_hand)


def beside_by_hand(detector: Detector) -> float:
    """The engine's call beside the same compiled model called by hand, in turn."""
    pixels = torch.randn(1, 3, 800, 1066)
    request, ours, hand = detector.engine.compiled.create_infer_request(), [], []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        request.infer({0: pixels.numpy()}, share_inputs=True)
        hand.append(time.perf_counter() - began)
        began = time.perf_counter()
        detector.engine(Batch(pixels, None))
        ours.append(time.perf_counter() - began)
    return round(statistics.median(a / b for a, b in zip(ours, hand, strict=True)), 3)


if __name__ == "__main__":
    main()
