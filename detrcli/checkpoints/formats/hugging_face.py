"""Folders of Hugging Face transformers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from detrcli.architectures import architectures
from detrcli.architectures.adapters.originals.rt_detr import DEIMV2
from detrcli.architectures.architecture import Architecture, ImportedModel
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.coco import things_among
from detrcli.checkpoints.formats.published import Candidate, check_tensors, recognize
from detrcli.checkpoints.hub import CONFIG as CONFIG
from detrcli.checkpoints.hub import PREPROCESSOR, TENSORS
from detrcli.checkpoints.phrases import EXAMPLE
from detrcli.config import Preprocessing
from detrcli.errors import UsageError, WeightsError
from detrcli.resize import ShortestEdge
from detrcli.structures import Classes

REMEDY = "Download the folder again, or save the model again with save_pretrained()."


def imported_types() -> dict[str, Architecture[Any]]:
    """Return the architectures that read folders with another library, by `model_type` or class."""
    return {model_type: known for known in architectures().values() for model_type in known.model_types}


def load(folder: Path, source: str, phrases: Sequence[str] = ()) -> Checkpoint:
    """Read a folder. The phrases are the classes of an open-vocabulary model; without phrases, it raises UsageError."""
    facts = _read_json(folder / CONFIG, source)
    if "DEIMTransformer" in facts:
        raise WeightsError(DEIMV2.format(source))
    architecture = None
    try:
        types = imported_types()
        kinds = [*(facts.get("architectures") or ()), facts.get("model_type", "")]  # the class first
        architecture = next((types[kind] for kind in kinds if kind in types), None)
        if architecture is None:
            return _load_state_dict(folder, source, facts)
        if architecture.takes_phrases and not phrases:
            raise UsageError(
                f"{source}: this model detects phrases. Give them as {EXAMPLE}.\n"
                "`detr predict`, `detr eval`, `detr visualize-attn` and `detr export` take such models."
            )
        return _checkpoint(source, architecture, architecture.read(folder, source, phrases))
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError, RecursionError, UsageError) as error:
        if isinstance(error, UsageError) and architecture is not None and architecture.takes_phrases:
            raise  # an error about the phrases
        raise WeightsError(
            f"{source}: {CONFIG} or {PREPROCESSOR} has invalid content ({error!s:.200}).\n{REMEDY}"
        ) from None


def _load_state_dict(folder: Path, source: str, facts: Mapping[str, Any]) -> Checkpoint:
    """Read a folder into one of our architectures, renaming the tensors of its state dict."""
    known: dict[str, list[Candidate]] = {}
    for architecture in architectures().values():
        for model_type, adapter in architecture.hugging_face.items():
            known.setdefault(model_type, []).append((architecture, adapter))
    if facts.get("model_type") not in known:
        raise WeightsError(
            f"{source}: {CONFIG} is of a model of type {facts.get('model_type')!r}. The supported types are "
            f"{', '.join([*known, *imported_types()])}."
        )
    try:
        their_tensors = check_tensors(load_file(folder / TENSORS), source)
    except FileNotFoundError:
        raise WeightsError(f"{source}: there is no {TENSORS} beside {CONFIG}.\n{REMEDY}") from None
    except SafetensorError as error:
        raise WeightsError(f"{source}: {TENSORS} is not a complete safetensors file ({error}).\n{REMEDY}") from None
    candidates = known[facts["model_type"]]
    architecture, adapter = recognize(candidates, their_tensors) or candidates[0]
    tensors = adapter.rename(their_tensors)
    config = adapter.infer(source, tensors, facts, None)
    names = {int(index): str(name) for index, name in (facts.get("id2label") or {}).items()}
    return _checkpoint(source, architecture, ImportedModel(config, tensors, names, _preprocessing(folder, source)))


def _checkpoint(source: str, architecture: Architecture[Any], model: ImportedModel) -> Checkpoint:
    count = model.config.classes
    names = [model.names.get(index, f"class {index}") for index in range(count)]
    classes = Classes.of(range(count), names, things_among(names))
    return Checkpoint(
        source, architecture, model.config, model.tensors, classes, model.preprocessing, architecture.loss
    )


def _preprocessing(folder: Path, source: str) -> Preprocessing:
    default, rule = Preprocessing(), ShortestEdge()
    if not (folder / PREPROCESSOR).exists():
        return default
    facts = _read_json(folder / PREPROCESSOR, source)
    if not (facts.get("do_resize", True) and facts.get("do_rescale", True)):
        raise WeightsError(f"{source}: {PREPROCESSOR}: images are not resized or not rescaled, which is not supported.")
    if not facts.get("do_normalize", True):
        facts |= {"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}
    size = facts.get("size", {})
    if isinstance(size, int):  # in older versions of transformers
        size = {"shortest_edge": size, "longest_edge": facts.get("max_size", rule.max_size)}
    if "shortest_edge" not in size:
        raise WeightsError(f"{source}: {PREPROCESSOR}: the size {size} has no shortest edge.")
    colors: dict[str, Any] = {
        name: tuple(map(float, facts.get(f"image_{name}", getattr(default, name)))) for name in ("mean", "std")
    }
    edges = int(size["shortest_edge"]), int(size.get("longest_edge") or rule.max_size)
    return Preprocessing(ShortestEdge(*edges), **colors)


def _read_json(path: Path, source: str) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{source}: {path.name} cannot be read ({error}).\n{REMEDY}") from None
    if not isinstance(facts, dict):
        raise WeightsError(f"{source}: {path.name} is not a JSON object.")
    return facts
