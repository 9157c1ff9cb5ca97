"""A detector from what the command line says."""

from detrcli.api.detector import Detector, load
from detrcli.cli.console import DownloadStatus


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
    with DownloadStatus() as progress:
        return load(
            weights,
            device,
            precision=precision,
            model=model,
            sha256=sha256,
            size=size,
            max_size=max_size,
            progress=progress,
        )
