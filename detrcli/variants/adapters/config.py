"""A model of transformers as a value: its kind, and what its two JSON files say."""

import json
from dataclasses import dataclass
from typing import Any

from detrcli.config import ModelConfig
from detrcli.errors import UsageError, WeightsError
from detrcli.variants.adapters.families import FAMILIES, Family

NEEDED = "Models of transformers need it to be installed: pip install 'detrcli[transformers]'"


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

    @property
    def family(self) -> Family:
        """What is known of its kind."""
        return FAMILIES[self.model_type]

    @property
    def numbers(self) -> Any:
        """The config as transformers has it, with our numbers of classes and queries."""
        transformers = the_library()
        found = transformers.AutoConfig.for_model(
            self.model_type, **_without_downloads({**json.loads(self.facts)})
        )
        found.num_labels = self.classes
        setattr(found, queries_key(self.family, found), self.queries)
        if self.family.auxiliary and not self.family.norm:
            found.auxiliary_loss = True  # or its loss would see the last layer alone
        return found


def the_library() -> Any:
    """Transformers, which speaks up for itself only where something is wrong; an error where it is not there."""
    try:
        import transformers
    except ImportError:
        raise WeightsError(NEEDED) from None
    library: Any = transformers
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    return library


def queries_key(family: Family, numbers: Any) -> str:
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
