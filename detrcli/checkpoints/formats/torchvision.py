"""Detectors of torchvision by name, `torchvision:NAME`, or with a state dict, `torchvision:NAME=FILE`."""

from pathlib import Path

import numpy as np

from detrcli.architectures.torchvision_detectors import ARCHITECTURE
from detrcli.checkpoints.checkpoint import Checkpoint, check_fit
from detrcli.checkpoints.download import fetch, hash_in_name
from detrcli.checkpoints.formats.published import read_pickle, state_dict_in
from detrcli.errors import UsageError, WeightsError
from detrcli.reporter import SILENT, Reporter
from detrcli.structures import Classes

PREFIX = "torchvision:"


def load(source: str, reporter: Reporter = SILENT) -> Checkpoint:
    """Load the published weights of a detector, or those in a file."""
    from torchvision.models import get_model_weights

    name, _, file = source.removeprefix(PREFIX).partition("=")
    if name not in ARCHITECTURE.presets:
        raise UsageError(f"{source}: unknown. The detectors of torchvision are {', '.join(ARCHITECTURE.presets)}.")
    published = get_model_weights(name)["DEFAULT"]
    path = Path(file).expanduser() if file else fetch_published(published.url, reporter)
    if not path.is_file():
        raise WeightsError(f"{source}: the file {file} does not exist.")
    theirs = state_dict_in(read_pickle(path, source), source)
    config = ARCHITECTURE.config_of(name, theirs, source)
    detector = ARCHITECTURE.build(config)
    check_fit(source, detector.network.state_dict(), theirs)
    detector.network.load_state_dict(theirs)
    names: list[str] = published.meta["categories"][1:]  # without the background
    if config.classes != len(names):
        names = [f"class {index + 1}" for index in range(config.classes)]
    classes = Classes(ids=np.arange(1, config.classes + 1), names=np.array(names))
    return Checkpoint(
        source, ARCHITECTURE, config, detector.state_dict(), classes, ARCHITECTURE.preprocessing, ARCHITECTURE.loss
    )


def fetch_published(url: str, reporter: Reporter) -> Path:
    """Download a file of torchvision, whose name contains its hash."""
    promised = hash_in_name(url)
    assert promised, url
    return fetch(url, promised, reporter)
