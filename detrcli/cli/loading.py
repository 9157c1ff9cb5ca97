"""A detector from what the command line says."""

from detrcli.cli.console import DownloadStatus
from detrcli.inference.detector import Detector, find_device
from detrcli.weights.load import load_weights


def load_detector(
    weights: str,
    *,
    model: str | None,
    sha256: str | None,
    size: int | None,
    max_size: int | None,
    device: str,
    precision: str = "fp32",
) -> Detector:
    """Weights on a device, fetched if need be."""
    find_device(device)  # before anything is fetched
    with DownloadStatus() as progress:
        loaded = load_weights(weights, model=model, sha256=sha256, progress=progress)
    return Detector.of(loaded.resized(size, max_size), device, precision)
