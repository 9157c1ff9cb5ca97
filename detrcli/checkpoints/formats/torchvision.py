"""Detectors of torchvision by their names there, `torchvision:NAME`, or `torchvision:NAME=FILE` with a state dict."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from detrcli.architectures.torchvision_detectors import ARCHITECTURE, ARCHITECTURES, config_of, detector_of
from detrcli.checkpoints.checkpoint import Checkpoint, explain_mismatch
from detrcli.checkpoints.download import DownloadProgress, fetch, hash_in_name, no_progress
from detrcli.checkpoints.formats.published import read_pickle
from detrcli.checkpoints.formats.tensors import tensors_in
from detrcli.errors import UsageError, WeightsError
from detrcli.structures import Classes

PREFIX = "torchvision:"


def load(source: str, progress: DownloadProgress = no_progress) -> Checkpoint:
    """The published weights of that name, or those of a file."""
    name, _, file = source.removeprefix(PREFIX).partition("=")
    if name not in ARCHITECTURES:
        raise UsageError(f"{source}: of torchvision's detectors there is {', '.join(ARCHITECTURES)}.")
    path = Path(file).expanduser() if file else _published(name, progress)
    if not path.is_file():
        raise WeightsError(f"{source}: there is no file {file}.")
    found = read_pickle(path, source)
    inner = found.get("model", found)
    theirs = tensors_in(inner if isinstance(inner, Mapping) else {}, source)
    config = config_of(name, theirs, source)
    detector = detector_of(config)
    explain_mismatch(source, detector.network.state_dict(), theirs)
    detector.network.load_state_dict(theirs)
    return Checkpoint(
        source,
        config,
        detector.state_dict(),
        _classes(name, config.classes),
        ARCHITECTURE.preprocessing,
        ARCHITECTURE.loss,
    )


def _published(name: str, progress: DownloadProgress) -> Path:
    from torchvision.models import get_model_weights

    url: str = get_model_weights(name)["DEFAULT"].url
    promised = hash_in_name(url)
    assert promised, url
    return fetch(url, promised, progress)


def _classes(name: str, count: int) -> Classes:
    """COCO's by their ids where there are as many; class 0, the background, is none."""
    from torchvision.models import get_model_weights

    names: list[str] = get_model_weights(name)["DEFAULT"].meta["categories"][1:]
    if count != len(names):
        names = [f"class {index + 1}" for index in range(count)]
    return Classes(ids=np.arange(1, count + 1), names=np.array(names))
