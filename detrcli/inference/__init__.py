"""From images to detections: detectors, engines and exports. Importing this package does not import torch."""

from typing import Literal

ExportFormat = Literal["onnx", "openvino", "tensorrt", "coreml", "litert", "executorch"]
EngineName = Literal["auto", "plain", "fast", "compiled", "openvino", "onnx"]
DEFAULT_THRESHOLD = 0.7  # confidence score from which a query is a detection
