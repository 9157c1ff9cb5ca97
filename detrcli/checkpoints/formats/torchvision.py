"""Weights of torchvision: detectors, `torchvision:NAME` or `torchvision:NAME=FILE`, and ImageNet backbones."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detrcli.architectures import Preset
from detrcli.architectures.torchvision_detectors import ARCHITECTURE
from detrcli.checkpoints.checkpoint import Checkpoint, check_fit
from detrcli.checkpoints.download import UnreachableError, fetch, hash_in_name
from detrcli.checkpoints.formats.published import read_pickle, state_dict_in
from detrcli.errors import UsageError, WeightsError
from detrcli.messages import argument
from detrcli.reporter import SILENT, Reporter
from detrcli.structures import Classes

PREFIX = "torchvision:"
IMAGENET = "imagenet"
COUNTER = "num_batches_tracked"


def load(source: str, reporter: Reporter = SILENT) -> Checkpoint:
    """Load the published weights of a detector, or those in a file."""
    name, _, file = source.removeprefix(PREFIX).partition("=")
    if name not in ARCHITECTURE.presets:
        raise UsageError(f"{source}: unknown. The detectors of torchvision are {', '.join(ARCHITECTURE.presets)}.")
    published = _published(name)["DEFAULT"]
    theirs = _tensors(file, source, published.url, reporter)
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


def has_imagenet_weights(model: Preset) -> bool:
    backbone = model.architecture.pretrained_backbone(model.config)
    return backbone is not None and backbone.obstacle is None


def backbone_weights(model: Preset, source: str, reporter: Reporter = SILENT) -> dict[str, Tensor]:
    """Return the backbone's part of the model's state dict.

    `source` is "imagenet", for torchvision's first weights of the network, from which the published DETRs were trained,
    or the path of a state dict in torchvision's format.
    """
    architecture, config = model
    backbone = architecture.pretrained_backbone(config)
    if backbone is None:
        raise UsageError(f"{source}: there are no pretrained weights for the backbone of a {architecture.name}.")
    if backbone.obstacle:
        raise WeightsError(f"{source}: {backbone.obstacle}")
    url = _published(backbone.model)["IMAGENET1K_V1"].url
    theirs = {
        f"{backbone.prefix}{name}": value
        for name, value in _tensors("" if source == IMAGENET else source, source, url, reporter).items()
        if not name.startswith("fc.") and not name.endswith(COUNTER)
    }
    state = architecture.unfilled(config).state_dict()
    wanted = {name: value for name, value in state.items() if name.startswith(backbone.prefix)}
    # Batch norm's counters start at 0, since some of torchvision's files have none.
    counters = {name: torch.tensor(0) for name in wanted if name.endswith(COUNTER)}
    check_fit(source, wanted, theirs | counters)
    return theirs | counters


def _published(model: str) -> Any:
    from torchvision.models import get_model_weights  # slow to import

    return get_model_weights(model)


def _tensors(file: str, source: str, url: str, reporter: Reporter) -> dict[str, Tensor]:
    """Read a file, or download torchvision's, whose name contains its hash."""
    expected_hash = hash_in_name(url)
    assert expected_hash, url
    try:
        path = Path(file).expanduser() if file else fetch(url, expected_hash, reporter)
    except UnreachableError as error:
        other = f"{PREFIX}NAME=FILE" if source.startswith(PREFIX) else argument("backbone_weights", "FILE")
        raise WeightsError(
            f"{error.message}\n{other} takes a file that was downloaded elsewhere. {argument('model', 'dino-tiny')} "
            "needs no pretrained backbone."
        ) from None
    if not path.is_file():
        raise WeightsError(f"{source}: no such file.")
    return state_dict_in(read_pickle(path, source), source)
