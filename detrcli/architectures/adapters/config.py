"""Configs of transformers' models: the model type, its JSON files, and phrases as tokens."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from types import SimpleNamespace
from typing import Any, ClassVar

from detrcli.architectures.adapters.families import FAMILIES, MASK_FAMILIES, OPEN_VOCABULARY, Family
from detrcli.architectures.adapters.library import check_numbers, import_transformers
from detrcli.config import ModelConfig
from detrcli.errors import UsageError


@dataclass(frozen=True)
class TransformersConfig(ModelConfig):
    """Everything that transformers needs to build a network."""

    families: ClassVar[Mapping[str, Family]]
    model_type: str
    facts: str  # config.json
    processor: str  # preprocessor_config.json

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model_type not in self.families:
            raise UsageError(f"model_type {self.model_type!r}: must be one of {', '.join(self.families)}.")
        check_numbers(json.loads(self.facts))

    @property
    def family(self) -> Any:
        return self.families[self.model_type]

    def library_config(self) -> Any:
        facts = json.loads(self.facts)
        for key in ("model_type", "architectures", "auto_map", "transformers_version"):
            facts.pop(key, None)
        # Backbone weights are not downloaded: they come with the model's, or are trained from scratch.
        for part in (facts, facts.get("backbone_config")):
            if isinstance(part, dict) and "use_pretrained_backbone" in part:
                part["use_pretrained_backbone"] = False
        return import_transformers().AutoConfig.for_model(self.model_type, **facts)


@dataclass(frozen=True)
class ClosedSetConfig(TransformersConfig):
    """The config of a detector with a fixed set of classes.

    `classes` and `queries` override the numbers in config.json.
    """

    families = FAMILIES

    @property
    def selected(self) -> int:
        """The number of pairs of query and class that become detections, for models with a sigmoid.

        It is the published number, or that of the queries if the user has changed it to more.
        """
        facts = json.loads(self.facts)
        before = facts[self.family.queries_key(SimpleNamespace(**facts))]
        # Own checkpoints of RF-DETR and LW-DETR have a number of their own, which transformers ignores.
        published: int | None = facts.get("num_select") or self.family.detections
        changed = self.queries != before and self.queries > (published or 0)
        return self.queries if changed or published is None else published

    def library_config(self) -> Any:
        config = super().library_config()
        config.num_labels = self.classes
        setattr(config, self.family.queries_key(config), self.queries)
        if self.family.auxiliary and not self.family.norm:
            config.auxiliary_loss = True  # or the loss function would get the last layer alone
        return config


@dataclass(frozen=True)
class OpenVocabularyConfig(TransformersConfig):
    """The config of a detector whose classes are phrases, with the tokens of the phrases."""

    families = OPEN_VOCABULARY
    texts: tuple[tuple[int, ...], ...]  # tokens of a single text with all phrases, or of a text per phrase
    spans: tuple[tuple[int, int], ...] = ()  # of each phrase in a single text: its first token, and the next after it


@dataclass(frozen=True)
class MaskConfig(TransformersConfig):
    """The config of a model whose queries have masks and no boxes.

    `classes` and `queries` override the numbers in config.json.
    """

    families = MASK_FAMILIES

    def library_config(self) -> Any:
        config = super().library_config()
        config.num_labels = self.classes
        *parts, name = self.family.queries.split(".")
        setattr(reduce(getattr, parts, config), name, self.queries)
        return config
