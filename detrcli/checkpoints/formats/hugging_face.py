"""Folders of Hugging Face transformers, on disk or on the Hugging Face Hub."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from detrcli.architectures import architectures
from detrcli.architectures.architecture import Architecture, ImportedModel
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.coco import things_among
from detrcli.checkpoints.download import OFFLINE
from detrcli.checkpoints.formats.published import Candidate, check_tensors, recognize
from detrcli.checkpoints.phrases import EXAMPLE
from detrcli.config import Preprocessing
from detrcli.errors import UsageError, WeightsError
from detrcli.resize import ShortestEdge
from detrcli.structures import Classes

REMEDY = "Download the folder again, or save the model again with save_pretrained()."
CONFIG, TENSORS, PREPROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
# Files of open-vocabulary models: the processor, which has a tokenizer, and the tokenizer.
TOKENIZER = (
    "processor_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt",
)  # fmt: skip


def imported_types() -> dict[str, Architecture[Any]]:
    """Return the architectures that read folders with another library, by `model_type` or class."""
    return {model_type: known for known in architectures().values() for model_type in known.model_types}


def load(folder: Path, source: str, phrases: Sequence[str] = ()) -> Checkpoint:
    """Read a folder. The phrases are the classes of an open-vocabulary model; without phrases, it raises UsageError."""
    facts = _read_json(folder / CONFIG, source)
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
                "Only `detr predict`, `detr eval` and `detr visualize-attn` take such models."
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


def fetch(source: str) -> Path:
    """Download `OWNER/NAME[@REVISION]` from the Hub, once, and return its folder. Each file's hash is checked."""
    repository, at, revision = source.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository, re.ASCII) or (at and not revision):
        raise WeightsError(f"hf:{source}: not the name of a model on the hub, which is hf:OWNER/NAME[@REVISION].")
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise WeightsError(f"hf:{source} needs huggingface_hub: pip install 'detrcli[models]'") from None
    try:
        hub = HfApi()
        info = hub.model_info(repository, revision=revision or None, files_metadata=True)
        files = {file.rfilename: file for file in info.siblings or []}
        for name in (CONFIG, TENSORS):
            if name not in files:
                raise WeightsError(f"hf:{source}: there is no {name} in this repository.")
        paths = {
            name: Path(hub.hf_hub_download(repository, name, revision=info.sha))
            for name in (CONFIG, TENSORS, PREPROCESSOR, *TOKENIZER)
            if name in files
        }
    except WeightsError:
        raise
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(f"hf:{source}: the download failed: {reason}") from None
    except Exception as error:  # of the HTTP library, which depends on the version
        raise WeightsError(f"hf:{source}: the hub cannot be reached: {error}.\n{OFFLINE}") from None
    for name, path in paths.items():
        # The Hub gives the SHA-256 of large files, and the git blob hash of the others.
        large = files[name].lfs
        kind, expected = ("SHA-256", large.sha256) if large is not None else ("git hash", files[name].blob_id)
        if large is not None:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        else:
            content = path.read_bytes()
            digest = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        if expected is not None and digest != expected:
            path.resolve().unlink()
            raise WeightsError(f"hf:{source}: {name} has the {kind} {digest}, not {expected}. Try again.")
    return paths[CONFIG].parent
