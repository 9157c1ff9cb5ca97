"""Models as Hugging Face transformers keeps them: a folder, here or on the hub."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from detrcli.architectures import architectures
from detrcli.architectures.architecture import Architecture, ImportedModel, StateDictAdapter
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.coco import things_among
from detrcli.checkpoints.formats.tensors import tensors_in
from detrcli.checkpoints.phrases import NEEDED
from detrcli.config import Preprocessing
from detrcli.errors import UsageError, WeightsError
from detrcli.resize import ShortestEdge
from detrcli.structures import Classes

AGAIN = "Fetch the folder again, or save the model anew with save_pretrained()."
CONFIG, TENSORS, PREPROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
# Of models that look for phrases: what a processor is that has a tokenizer too, and the tokenizer.
TOKENIZER = (
    "processor_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt",
)  # fmt: skip


def load(folder: Path, source: str, phrases: Sequence[str] = ()) -> Checkpoint:
    """Read such a folder. Where its model looks for phrases, these are its classes; a UsageError without any."""
    architecture = _for_phrases(folder, source)
    try:
        if architecture is None or architecture.phrases is None:
            return _load(folder, source)
        if not phrases:
            raise UsageError(NEEDED.format(source))
        return _found(architecture, architecture.phrases.read(folder, source, phrases), source)
    except RecursionError:
        raise WeightsError(f"{source}: {CONFIG} or {PREPROCESSOR} is nested without end.\n{AGAIN}") from None
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError, UsageError) as error:
        if architecture is not None and isinstance(error, UsageError):  # it is about the phrases
            raise
        raise WeightsError(
            f"{source}: {CONFIG} or {PREPROCESSOR} says what cannot be understood ({error!s:.200}).\n{AGAIN}"
        ) from None


def _for_phrases(folder: Path, source: str) -> Architecture[Any] | None:
    """The member that a folder is of, where that looks for phrases."""
    model_type = _read_json(folder / CONFIG, source).get("model_type")
    return next(
        (one for one in architectures().values() if one.phrases is not None and model_type in one.phrases.types), None
    )


def _load(folder: Path, source: str) -> Checkpoint:
    facts = _read_json(folder / CONFIG, source)
    known: dict[str, list[tuple[Architecture[Any], StateDictAdapter[Any]]]] = {}
    for one in architectures().values():
        for model_type, names_of_it in one.hugging_face.items():
            known.setdefault(model_type, []).append((one, names_of_it))
    adapted = {
        model_type: (architecture, architecture.adapter.read)
        for architecture in architectures().values()
        if architecture.adapter is not None
        for model_type in architecture.adapter.types
    }
    if facts.get("model_type") in adapted:
        architecture, read = adapted[facts["model_type"]]
        return _found(architecture, read(folder, source), source)
    if facts.get("model_type") not in known:
        raise WeightsError(
            f"{source}: {CONFIG} is of a model of type {facts.get('model_type')!r}; read are "
            f"{', '.join([*known, *adapted, *types_for_phrases()])}."
        )
    try:
        given = tensors_in(load_file(folder / TENSORS), source)
    except FileNotFoundError:
        raise WeightsError(f"{source}: there is no {TENSORS} beside {CONFIG}.\n{AGAIN}") from None
    except SafetensorError as error:
        raise WeightsError(f"{source}: {TENSORS} is no whole safetensors file ({error}).\n{AGAIN}") from None
    same = known[facts["model_type"]]
    architecture, theirs = next((one for one in same if one[1].known_by(given.keys())), same[0])
    tensors = theirs.rename(given)
    config = theirs.infer(source, tensors, facts, None)
    names = {int(index): str(name) for index, name in (facts.get("id2label") or {}).items()}
    classes = _classes(names, config.classes)
    return Checkpoint(source, config, tensors, classes, _preprocessing(folder, source), architecture.loss)


def types_for_phrases() -> list[str]:
    """The `model_type` of all that look for phrases."""
    return [
        one
        for architecture in architectures().values()
        if architecture.phrases is not None
        for one in architecture.phrases.types
    ]


def _found(architecture: Architecture[Any], found: ImportedModel[Any], source: str) -> Checkpoint:
    classes = _classes(found.names, found.config.classes)
    return Checkpoint(source, found.config, found.tensors, classes, found.preprocessing, architecture.loss)


def _classes(names: Mapping[int, str], count: int) -> Classes:
    every = [names.get(index, f"class {index}") for index in range(count)]
    return Classes.of(range(count), every, things_among(every))


def _preprocessing(folder: Path, source: str) -> Preprocessing:
    default, rule = Preprocessing(), ShortestEdge()
    if not (folder / PREPROCESSOR).exists():
        return default
    facts = _read_json(folder / PREPROCESSOR, source)
    if not (facts.get("do_resize", True) and facts.get("do_rescale", True)):
        raise WeightsError(f"{source}: {PREPROCESSOR} wants pictures that are not resized or not rescaled.")
    if not facts.get("do_normalize", True):
        facts |= {"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}
    size = facts.get("size", {})
    if isinstance(size, int):  # as older versions of transformers write it
        size = {"shortest_edge": size, "longest_edge": facts.get("max_size", rule.max_size)}
    if "shortest_edge" not in size:
        raise WeightsError(f"{source}: {PREPROCESSOR} wants pictures of {size}, not of a shortest edge.")
    red, green, blue = map(float, facts.get("image_mean", default.mean))
    mean = red, green, blue
    red, green, blue = map(float, facts.get("image_std", default.std))
    return Preprocessing(
        ShortestEdge(int(size["shortest_edge"]), int(size.get("longest_edge") or rule.max_size)),
        mean=mean,
        std=(red, green, blue),
    )


def _read_json(path: Path, source: str) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise WeightsError(f"{source}: {path.name} is nested without end.\n{AGAIN}") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{source}: {path.name} cannot be read ({error}).\n{AGAIN}") from None
    if not isinstance(facts, dict):
        raise WeightsError(f"{source}: {path.name} is not a JSON object.")
    return facts


def fetch(source: str) -> Path:
    """The folder of `OWNER/NAME[@REVISION]` on the hub, fetched once; each file is checked against its hash."""
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise WeightsError(f"hf:{source} needs huggingface_hub: pip install 'detrcli[hub]'") from None

    repository, _, revision = source.partition("@")
    try:
        hub = HfApi()
        info = hub.model_info(repository, revision=revision or None, files_metadata=True)
        there = {file.rfilename: file for file in info.siblings or []}
        for wanted in (CONFIG, TENSORS):
            if wanted not in there:
                raise WeightsError(f"hf:{source}: there is no {wanted} in this repository.")
        paths = {
            name: Path(hub.hf_hub_download(repository, name, revision=info.sha))
            for name in (CONFIG, TENSORS, PREPROCESSOR, *TOKENIZER)
            if name in there
        }
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(f"hf:{source}: could not be fetched: {first}") from None
    for name, path in paths.items():
        kind, promised = _promised(there[name])
        found = _hash(path, kind)
        if promised is not None and found != promised:
            path.resolve().unlink()
            raise WeightsError(f"hf:{source}: {name} has the {kind} {found}, not {promised}. Try again.")
    return paths[CONFIG].parent


def _promised(file: Any) -> tuple[str, str | None]:
    """The hash that the hub says a file has: a large one by itself, others as git names them."""
    return ("SHA-256", file.lfs.sha256) if file.lfs is not None else ("git hash", file.blob_id)


def _hash(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        if kind == "SHA-256":
            return hashlib.file_digest(file, "sha256").hexdigest()
        contents = file.read()
    return hashlib.sha1(b"blob %d\0" % len(contents) + contents, usedforsecurity=False).hexdigest()
