"""The architectures of transformers: closed-set detectors and open-vocabulary detectors.

Each contains several families, which differ by the `model_type` in the config.
"""

import copy
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from detrcli.architectures.adapters import library, processors
from detrcli.architectures.adapters.attention import TransformersInspectable
from detrcli.architectures.adapters.config import ClosedSetConfig, OpenVocabularyConfig, TransformersConfig
from detrcli.architectures.adapters.families import FAMILIES, OPEN_VOCABULARY
from detrcli.architectures.adapters.network import (
    AdaptedNetwork,
    OpenVocabularyNetwork,
    PatchNetwork,
    TokenNetwork,
    TransformersNetwork,
)
from detrcli.architectures.adapters.originals import REPOSITORIES
from detrcli.architectures.adapters.originals.conversion import state_dict
from detrcli.architectures.adapters.originals.rt_detr import HEAD_ACTIVATION
from detrcli.architectures.adapters.phrases import tokens_of
from detrcli.architectures.architecture import Architecture, DataFacts, FolderArchitecture, ImportedModel
from detrcli.architectures.foreign import PREFIX, OwnLoss
from detrcli.config import LossConfig, Preprocessing
from detrcli.losses.matching import HungarianMatcher
from detrcli.losses.scoring import Scoring, Sigmoid, Softmax
from detrcli.losses.terms import class_cost, giou_cost, l1_cost
from detrcli.model.inspectable import Inspectable
from detrcli.resize import ExactSize, InputSides, PaddedSquare, Resize
from detrcli.structures import Classes

T = TypeVar("T", bound=TransformersConfig)


class BestPhrase(Sigmoid):
    """A sigmoid for each phrase. Each query is one detection, with its best phrase."""

    name = "best phrase"

    def num_pairs(self, queries: int) -> int | None:
        return None


class TransformersArchitecture(Architecture[T]):
    """An architecture whose networks are built by transformers."""

    loss = LossConfig(cost={}, loss={})
    draws_queries = True  # some are zeros in a new model of transformers
    network: type[TransformersNetwork]

    def build(self, config: T) -> TransformersNetwork:
        return self.network(config)

    def unfilled(self, config: T) -> TransformersNetwork:
        return self.build(config)

    def inspect(self, model: Any) -> Inspectable:
        return TransformersInspectable(model)

    def summary(self, config: T) -> str:
        return str(config.family.title)

    def input_sides(self, config: T) -> InputSides:
        family = config.family
        return InputSides(max(1, family.side_multiple(json.loads(config.facts))), family.fixed_side)

    def read(self, folder: Path, source: str, phrases: Sequence[str]) -> ImportedModel:
        model_type = library.model_type_of(folder, source, has_masks=self.network.has_masks)
        family: Any = self.config.families[model_type]
        tokens: dict[str, Any] = {}
        if self.takes_phrases:  # before the weights are loaded, since it may fail
            tokens["texts"], tokens["spans"] = tokens_of(phrases, folder, family, source)
        network = library.load(self.network.task, folder, source)
        processor = processors.load_processor(folder, family, network.config, source)
        return self._imported(network, processor, phrases, tokens, source)

    def _imported(
        self, network: Any, processor: Any, phrases: Sequence[str], tokens: Mapping[str, Any], source: str
    ) -> ImportedModel:
        hf_config = network.config
        family: Any = self.config.families[hf_config.model_type]
        key = family.queries_key(hf_config)
        patches = 0 if key else hf_config.vision_config.image_size // hf_config.vision_config.patch_size  # per side
        names = dict(enumerate(phrases)) if self.takes_phrases else hf_config.id2label
        config = self.config(
            queries=int(attrgetter(key)(hf_config)) if key else patches**2,
            classes=len(phrases) if self.takes_phrases else int(hf_config.num_labels),
            model_type=hf_config.model_type,
            facts=json.dumps(hf_config.to_dict()),
            processor=json.dumps(processor.to_dict(), default=str),
            **tokens,
        )
        return ImportedModel(
            config,
            {PREFIX + name: tensor for name, tensor in network.state_dict().items()},
            {int(index): str(name) for index, name in names.items()},
            processors.preprocessing_of(processor, source),
        )


class TransformersFolder(TransformersArchitecture[T], FolderArchitecture[T]):
    """An architecture whose checkpoints are folders that transformers loads."""

    def write(
        self, config: T, tensors: Mapping[str, Tensor], classes: Classes, preprocessing: Preprocessing
    ) -> Mapping[str, bytes]:
        """Return the files of a folder that transformers loads, with the class names."""
        model = self.build(config)
        model.load_state_dict(dict(tensors))
        network = model.network
        network.config = copy.deepcopy(network.config)
        network.config.id2label = {index: str(name) for index, name in enumerate(classes.names)}
        network.config.label2id = {name: index for index, name in network.config.id2label.items()}
        processor = {**json.loads(config.processor), "size": processors.size_of(preprocessing.resize)}
        with tempfile.TemporaryDirectory() as folder:
            network.save_pretrained(folder, max_shard_size="100GB")
            files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
        return {**files, processors.PROCESSOR: json.dumps(processor, indent=2).encode()}

    def read_tensors(self, folder: Path) -> dict[str, Tensor]:
        task = getattr(library.import_transformers(), self.network.task)
        network = task.from_pretrained(folder, dtype="float32", **library.LOCAL)
        return {PREFIX + name: tensor for name, tensor in network.state_dict().items()}


class DetectorArchitecture(TransformersFolder[ClosedSetConfig]):
    name = "transformers-detector"
    config = ClosedSetConfig
    model_types = tuple(FAMILIES)
    network = AdaptedNetwork
    recipe_uses_data = True

    def max_queries(self, config: ClosedSetConfig, resize: Resize) -> int | None:
        strides = config.family.strides(json.loads(config.facts))
        if not strides or not isinstance(resize, ExactSize | PaddedSquare):  # otherwise it depends on the image
            return None
        return sum(math.ceil(resize.height / stride) * math.ceil(resize.width / stride) for stride in strides)

    def scoring(self, config: ClosedSetConfig) -> Scoring:
        if config.family.scoring == "softmax":
            return Softmax()
        return Sigmoid(top_k=config.selected)

    def clips_boxes(self, config: ClosedSetConfig) -> bool:
        return bool(config.family.clips)

    def read_checkpoint(self, content: Mapping[str, Any], file: str, source: str) -> ImportedModel | None:
        for repository in REPOSITORIES:
            tensors = state_dict(content, repository.states)
            if repository.recognizes(tensors.keys()):
                converted = repository.convert(tensors, content, file, source)
                if converted.has_masks != self.network.has_masks:
                    return None  # another architecture reads it
                network, processor = library.load_converted(
                    converted, self.config.families[converted.model_type], source
                )
                return self._imported(network, processor, (), {}, source)._replace(names=converted.names)
        return None

    def make_loss(self, config: ClosedSetConfig, loss: LossConfig) -> OwnLoss:
        """Return the network's loss, with our matcher configured like the network's."""
        hf_config, kind = config.library_config(), "probability"
        cost_scoring = scoring = self.scoring(config)
        if isinstance(scoring, Sigmoid):
            alpha, gamma = (getattr(hf_config, f"matcher_{key}", getattr(scoring, key)) for key in ("alpha", "gamma"))
            cost_scoring, kind = replace(scoring, alpha=alpha, gamma=gamma), "focal"
        weights = [float(getattr(hf_config, name)) for name in config.family.costs]  # of class, L1 and GIoU
        costs = [class_cost(cost_scoring, kind, weights[0]), l1_cost(weights[1]), giou_cost(weights[2])]
        return OwnLoss(scoring, HungarianMatcher(costs))

    def recipe(self, config: ClosedSetConfig, facts: DataFacts) -> Mapping[str, Any]:
        """Return the family's recipe, with an augmentation that leaves fixed input sizes unchanged."""
        return {"augmentation": "published", **config.family.recipe}

    def obstacle(self, config: ClosedSetConfig) -> str | None:
        if HEAD_ACTIVATION in json.loads(config.facts):
            return "transformers has no DEIM: it would compute the heads with ReLU instead of SiLU"
        return None


class OpenVocabularyArchitecture(TransformersArchitecture[OpenVocabularyConfig]):
    """Detectors whose classes are phrases that the user gives."""

    name = "transformers-open-vocabulary"
    config = OpenVocabularyConfig
    model_types = tuple(OPEN_VOCABULARY)
    network = OpenVocabularyNetwork
    takes_phrases = True

    def build(self, config: OpenVocabularyConfig) -> OpenVocabularyNetwork:
        return TokenNetwork(config) if config.family.text == "together" else PatchNetwork(config)

    def scoring(self, config: OpenVocabularyConfig) -> BestPhrase:
        return BestPhrase()

    def make_loss(self, config: OpenVocabularyConfig, loss: LossConfig) -> OwnLoss:
        return OwnLoss(self.scoring(config), None)


ARCHITECTURES = (DetectorArchitecture(), OpenVocabularyArchitecture())
