"""Pretrained weights for the backbone of a model that is trained from scratch."""

from pathlib import Path

import torch
from torch import Tensor
from torchvision.models import get_model_weights

from detrcli.architectures import Preset
from detrcli.checkpoints.checkpoint import check_fit
from detrcli.checkpoints.formats.published import check_tensors, read_pickle
from detrcli.checkpoints.formats.torchvision import fetch_published
from detrcli.errors import UsageError, WeightsError
from detrcli.reporter import SILENT, Reporter

IMAGENET = "imagenet"
COUNTER = "num_batches_tracked"


def has_imagenet_weights(model: Preset) -> bool:
    """Return whether the model's backbone can start from ImageNet weights."""
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
    if source == IMAGENET:
        path = fetch_published(get_model_weights(backbone.model)["IMAGENET1K_V1"].url, reporter)
    else:
        path = Path(source).expanduser()
    if not path.is_file():
        raise WeightsError(f"{source}: no such file. Give a path, or {IMAGENET}.")
    content = {name: value for name, value in read_pickle(path, source).items() if isinstance(value, Tensor)}
    theirs = {
        f"{backbone.prefix}{name}": value
        for name, value in check_tensors(content, source).items()
        if not name.startswith("fc.") and not name.endswith(COUNTER)
    }
    state = architecture.unfilled(config).state_dict()
    wanted = {name: value for name, value in state.items() if name.startswith(backbone.prefix)}
    # Counters start at 0, since some of their files have none.
    counters = {name: torch.tensor(0) for name in wanted if name.endswith(COUNTER)}
    check_fit(source, wanted, theirs | counters)
    return theirs | counters
