"""Trained weights for the backbone alone, to start from where a whole model has to be learned."""

from pathlib import Path

import torch
from torch import Tensor
from torchvision.models import get_model_weights

from detrcli.architectures import architecture_of
from detrcli.checkpoints.checkpoint import explain_mismatch
from detrcli.checkpoints.download import DownloadProgress, fetch, hash_in_name, no_progress
from detrcli.checkpoints.formats.published import read_pickle
from detrcli.checkpoints.formats.tensors import tensors_in
from detrcli.config import ModelConfig
from detrcli.errors import UsageError, WeightsError

IMAGENET = "imagenet"
COUNTER = "num_batches_tracked"


def is_there(config: ModelConfig) -> bool:
    """Whether such a model's backbone can start from ImageNet."""
    trained = architecture_of(config).backbone
    return trained is not None and trained.refuse(config) is None


def backbone_weights(config: ModelConfig, source: str, progress: DownloadProgress = no_progress) -> dict[str, Tensor]:
    """The backbone's part of such a model's state dict, trained to classify pictures.

    `source` is "imagenet", for torchvision's first weights of that network (those that the published DETRs started
    from), or the path of a state dict as torchvision saves it.
    """
    architecture = architecture_of(config)
    trained = architecture.backbone
    if trained is None:
        raise UsageError(f"{source}: there are no trained weights for the backbone of a {architecture.name}.")
    if refusal := trained.refuse(config):
        raise WeightsError(f"{source}: {refusal}")
    path = _fetch(trained.architecture(config), progress) if source == IMAGENET else Path(source).expanduser()
    if not path.is_file():
        raise WeightsError(f"{source}: no such file; there is the name {IMAGENET}, or a path.")
    theirs = {
        f"{trained.prefix}{name}": value
        for name, value in tensors_in(read_pickle(path, source), source).items()
        if not name.startswith("fc.") and not name.endswith(COUNTER)
    }
    with torch.device("meta"):
        state = architecture.build(config).state_dict()
    wanted = {name: value for name, value in state.items() if name.startswith(trained.prefix)}
    # Batches are counted anew, since some of their files have no counts.
    counters = {name: torch.tensor(0) for name in wanted if name.endswith(COUNTER)}
    explain_mismatch(source, wanted, theirs | counters)
    return theirs | counters


def _fetch(backbone: str, progress: DownloadProgress) -> Path:
    url: str = get_model_weights(backbone)["IMAGENET1K_V1"].url
    promised = hash_in_name(url)
    assert promised, url
    return fetch(url, promised, progress)
