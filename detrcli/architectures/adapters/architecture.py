"""All families of transformers' detectors as one member, those that look for phrases or classify masks as others.

Each family is known by the `model_type` in its config.
"""

from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor

from detrcli.architectures.adapters import folder
from detrcli.architectures.adapters.attention import AdaptedInspectable, OpenVocabularyInspectable
from detrcli.architectures.adapters.config import AdaptedConfig, MaskConfig, OpenVocabularyConfig
from detrcli.architectures.adapters.families import FAMILIES, MASK_FAMILIES, OPEN_VOCABULARY, MaskFamily
from detrcli.architectures.adapters.masks import MaskNetwork
from detrcli.architectures.adapters.network import AdaptedNetwork
from detrcli.architectures.adapters.open_vocabulary import OpenVocabularyNetwork, PatchNetwork, TokenNetwork
from detrcli.architectures.adapters.scoring import BestPhrase, PairsOfSoftmax, matcher, scoring
from detrcli.architectures.architecture import Adapter, Architecture, DataFacts, FolderFormat, PhraseAdapter
from detrcli.architectures.own_loss import OwnLoss
from detrcli.config import LossConfig, Preprocessing
from detrcli.errors import UsageError
from detrcli.segmentation.mask_classification import MaskClassification


def build(config: AdaptedConfig) -> AdaptedNetwork:
    """The network with the random start that transformers gives it. It computes numbers while it is being built."""
    with torch.device("cpu"):
        return AdaptedNetwork(config)


def build_for_phrases(config: OpenVocabularyConfig) -> OpenVocabularyNetwork:
    """Likewise."""
    network = {"together": TokenNetwork, "apart": PatchNetwork}[config.family.text]
    with torch.device("cpu"):
        return network(config)


def build_with_masks(config: MaskConfig) -> MaskNetwork:
    """Likewise."""
    with torch.device("cpu"):
        return MaskNetwork(config)


def masks_alone(family: MaskFamily) -> NoReturn:
    """What is said to who wants more of such a model than masks and maps."""
    raise UsageError(
        f"{family.title} has masks and no boxes: `detr predict`, `detr eval` and `detr bench` alone take it."
    )


def rows_of(config: AdaptedConfig, count: str) -> Mapping[str, Tensor]:
    """The tensors that have a row for each of what is counted, as they start: those that grow with it."""
    more = type(config)(**{**vars_of(config), count: getattr(config, count) + 1})
    fresh, larger = (build(one).state_dict() for one in (config, more))
    grown = {name: value for name, value in fresh.items() if larger[name].shape != value.shape}
    for name, value in grown.items():
        if larger[name].shape != (value.shape[0] + 1, *value.shape[1:]):
            raise UsageError(f"{config.family.title}: its number of {count} cannot be changed ({name}).")
    return grown


def vars_of(config: AdaptedConfig) -> dict[str, Any]:
    """Its fields, without what was computed from them."""
    return {name: getattr(config, name) for name in ("queries", "classes", "model_type", "facts", "processor")}


def recipe(config: AdaptedConfig, facts: DataFacts) -> Mapping[str, Any]:
    """The family's own, with an augmentation that keeps to its input's size."""
    return {"augmentation": "published", **config.family.recipe}


ARCHITECTURE = Architecture(
    name="transformers-detector",
    config=AdaptedConfig,
    presets={},
    build=build,
    build_unfilled=build,
    scoring=scoring,
    make_loss=lambda config, loss: OwnLoss(scoring(config), matcher(config)),
    inspect=AdaptedInspectable,
    preprocessing=Preprocessing(),
    class_rows=lambda config: rows_of(config, "classes"),
    query_rows=lambda config: rows_of(config, "queries"),
    loss=LossConfig(cost={}, loss={}),
    recipe=recipe,
    difference=lambda found, wanted: "" if found.model_type == wanted.model_type else f"it is a {found.family.title}",
    summary=lambda config: config.family.title,
    adapter=Adapter(tuple(FAMILIES), folder.read),
    folder=FolderFormat(folder.write, folder.tensors_of),
)

FOR_PHRASES = Architecture(
    name="transformers-open-vocabulary",
    config=OpenVocabularyConfig,
    presets={},
    build=build_for_phrases,
    build_unfilled=build_for_phrases,
    scoring=lambda config: BestPhrase(),
    make_loss=lambda config, loss: OwnLoss(BestPhrase(), None),
    inspect=OpenVocabularyInspectable,
    preprocessing=Preprocessing(),
    class_rows=lambda config: {},
    query_rows=lambda config: {},
    loss=LossConfig(cost={}, loss={}),
    difference=lambda found, wanted: "" if found.model_type == wanted.model_type else f"it is a {found.family.title}",
    summary=lambda config: config.family.title,
    phrases=PhraseAdapter(tuple(OPEN_VOCABULARY), folder.read_for_phrases),
)

WITH_MASKS = Architecture(
    name="transformers-masks",
    config=MaskConfig,
    presets={},
    build=build_with_masks,
    build_unfilled=build_with_masks,
    scoring=lambda config: PairsOfSoftmax(),
    segmentation=lambda config: MaskClassification(side=config.family.side_of_masks),
    make_loss=lambda config, loss: masks_alone(config.family),
    inspect=lambda model: masks_alone(model.family),
    preprocessing=Preprocessing(),
    class_rows=lambda config: masks_alone(config.family),
    query_rows=lambda config: masks_alone(config.family),
    loss=LossConfig(cost={}, loss={}),
    difference=lambda found, wanted: "" if found.model_type == wanted.model_type else f"it is a {found.family.title}",
    summary=lambda config: config.family.title,
    adapter=Adapter(tuple(MASK_FAMILIES), folder.read_with_masks),
)
