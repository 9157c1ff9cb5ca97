"""A detector from what the command line says."""

from collections.abc import Sequence

from detrcli.api.detector import Detector, load
from detrcli.cli.console import DownloadStatus, warn
from detrcli.inference.engines import EngineName


def load_detector(
    weights: str,
    *,
    model: str | None,
    sha256: str | None,
    size: int | None,
    max_size: int | None,
    device: str,
    text: str | None = None,
    class_names: Sequence[str] = (),
    precision: str | None = None,
    engine: EngineName | None = None,
) -> Detector:
    """Weights on a device, fetched if need be."""
    with DownloadStatus() as progress:
        return load(
            weights,
            device,
            precision=precision,
            engine=engine,
            note=warn,
            model=model,
            sha256=sha256,
            size=size,
            max_size=max_size,
            text=text,
            class_names=class_names,
            progress=progress,
        )
