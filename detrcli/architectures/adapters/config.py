"""A model of transformers as a value: its kind, what its JSON files say, and phrases as it reads them."""

import json
from dataclasses import dataclass
from typing import Any

from detrcli.architectures.adapters.families import (
    FAMILIES,
    MASK_FAMILIES,
    OPEN_VOCABULARY,
    ClosedSet,
    MaskFamily,
    OpenVocabulary,
)
from detrcli.architectures.adapters.library import the_library
from detrcli.config import ModelConfig
from detrcli.errors import UsageError


@dataclass(frozen=True)
class AdaptedConfig(ModelConfig):
    """Everything that transformers needs to build the network."""

    model_type: str
    facts: str  # config.json; what it says of classes and queries gives way to our numbers
    processor: str  # preprocessor_config.json

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model_type not in FAMILIES:
            raise UsageError(f"model_type {self.model_type!r}: there is {', '.join(FAMILIES)}.")
        check_numbers(json.loads(self.facts))

    @property
    def family(self) -> ClosedSet:
        """What is known of its kind."""
        return FAMILIES[self.model_type]

    @property
    def numbers(self) -> Any:
        """The config as transformers has it, with our numbers of classes and queries."""
        found = _numbers(self.model_type, self.facts)
        found.num_labels = self.classes
        setattr(found, queries_key(self.family, found), self.queries)
        if self.family.auxiliary and not self.family.norm:
            found.auxiliary_loss = True  # or its loss would see the last layer alone
        return found


@dataclass(frozen=True)
class OpenVocabularyConfig(ModelConfig):
    """Everything that transformers needs to build the network, and the phrases that are its classes, in tokens."""

    model_type: str
    facts: str  # config.json
    texts: tuple[tuple[int, ...], ...]  # tokens of one text with all phrases, or of one of each
    spans: tuple[tuple[int, int], ...] = ()  # in the one text, of each phrase: its first token, the next after it

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model_type not in OPEN_VOCABULARY:
            raise UsageError(f"model_type {self.model_type!r}: there is {', '.join(OPEN_VOCABULARY)}.")
        check_numbers(json.loads(self.facts))

    @property
    def family(self) -> OpenVocabulary:
        """What is known of its kind."""
        return OPEN_VOCABULARY[self.model_type]

    @property
    def numbers(self) -> Any:
        """The config as transformers has it."""
        return _numbers(self.model_type, self.facts)


@dataclass(frozen=True)
class MaskConfig(ModelConfig):
    """Everything that transformers needs to build a network whose queries have masks and no boxes."""

    model_type: str
    facts: str  # config.json

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model_type not in MASK_FAMILIES:
            raise UsageError(f"model_type {self.model_type!r}: there is {', '.join(MASK_FAMILIES)}.")
        check_numbers(json.loads(self.facts))

    @property
    def family(self) -> MaskFamily:
        """What is known of its kind."""
        return MASK_FAMILIES[self.model_type]

    @property
    def numbers(self) -> Any:
        """The config as transformers has it."""
        return _numbers(self.model_type, self.facts)


MOST_LAYERS, LARGEST = 1_000, 100_000  # far above any of these models, and too little to fill the memory


def check_numbers(facts: Any, key: str = "") -> None:
    """A UsageError where a config.json, or a part of it, asks for more than anybody builds."""
    if isinstance(facts, dict):
        for name, value in facts.items():
            if name not in ("id2label", "label2id"):
                check_numbers(value, name)
    elif isinstance(facts, list):
        for value in facts:
            check_numbers(value, key)
    elif isinstance(facts, int):
        most = MOST_LAYERS if "layers" in key or "depth" in key else LARGEST
        if facts > most:
            raise UsageError(f"{key} = {facts!r:.40}: it is at most {most:,}.")


def _numbers(model_type: str, facts: str) -> Any:
    return the_library().AutoConfig.for_model(model_type, **_without_downloads({**json.loads(facts)}))


def queries_key(family: ClosedSet, numbers: Any) -> str:
    """Where a config keeps how many queries there are."""
    return "two_stage_num_proposals" if getattr(numbers, "two_stage", False) else family.queries


def _without_downloads(facts: dict[str, Any]) -> dict[str, Any]:
    """Nothing is fetched for a backbone: its weights come with the model's, or it is trained from scratch."""
    for key in ("model_type", "architectures", "auto_map", "transformers_version"):
        facts.pop(key, None)
    if "use_pretrained_backbone" in facts:
        facts["use_pretrained_backbone"] = False
    if isinstance(facts.get("backbone_config"), dict):
        inner = dict(facts["backbone_config"])
        if "use_pretrained_backbone" in inner:
            inner["use_pretrained_backbone"] = False
        facts["backbone_config"] = inner
    return facts
