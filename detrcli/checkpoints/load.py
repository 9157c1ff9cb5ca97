"""What a user means by `--weights W`."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from detrcli.architectures import architecture_of, preset
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.download import DownloadProgress, fetch, hash_in_name, no_progress
from detrcli.checkpoints.fit import with_mask_head
from detrcli.checkpoints.formats import folder, hugging_face, native, published, torchvision
from detrcli.checkpoints.known import EXPORTS, is_url, unknown_weights
from detrcli.checkpoints.phrases import phrases_of_classes
from detrcli.checkpoints.registry import PUBLISHED, SHIPPED
from detrcli.checkpoints.save import find
from detrcli.config import ModelConfig
from detrcli.errors import NOTHING_INSIDE, UsageError, WeightsError

BEST = "best"  # what a run calls its best weights


def load_checkpoint(
    source: str,
    *,
    model: str | None = None,
    sha256: str | None = None,
    progress: DownloadProgress = no_progress,
    phrases: Sequence[str] | None = None,
    class_names: Sequence[str] = (),
) -> Checkpoint:
    """Weights by name, file, folder, `hf:OWNER/NAME` or URL. `model` says what they are: tensors cannot tell DC5.

    Models that look for phrases look for these, or for the names of classes where there are none; for others phrases
    are an error.
    """
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise UsageError(f"--sha256 {sha256}: a SHA-256 has 64 hexadecimal digits.")
    wanted = None if model is None else preset(model)
    if phrases is not None and _takes_none(source):  # before anything is fetched
        raise _own_classes(source)
    loaded = _load(source, wanted, sha256, progress, phrases or phrases_of_classes(class_names))
    if phrases is not None and loaded.architecture.phrases is None:
        raise _own_classes(source)
    if wanted is not None and (is_a := _difference(loaded.config, wanted)):
        raise UsageError(f"{source}: not a {model}: {is_a}.")
    return loaded


def _takes_none(source: str) -> bool:
    """Whether a name alone tells that these are no weights that look for phrases."""
    named = source in PUBLISHED or source in SHIPPED or source.endswith(tuple(EXPORTS.values()))
    return named or source.startswith((torchvision.PREFIX, "http://", "https://"))


def _own_classes(source: str) -> UsageError:
    return UsageError(
        f"--text: {source} has classes of its own. Phrases are for folders and hf:OWNER/NAME of the types "
        f"{', '.join(hugging_face.types_for_phrases())}."
    )


def _difference(found: ModelConfig, wanted: ModelConfig) -> str:
    """What makes it another model; nothing where it is the same, whatever its numbers."""
    architecture = architecture_of(found)
    if architecture is not architecture_of(wanted):
        return f"it is a {architecture.name}"
    return architecture.difference(found, wanted)


def _load(
    source: str, wanted: ModelConfig | None, sha256: str | None, progress: DownloadProgress, phrases: Sequence[str]
) -> Checkpoint:
    if source in SHIPPED:
        return _shipped(source)
    if source in PUBLISHED:
        known = PUBLISHED[source]
        path = fetch(known.url, known.sha256, progress)
        return published.load(path, source, preset(source))
    if source.startswith(torchvision.PREFIX):
        return torchvision.load(source, progress)
    if source.startswith("hf:"):
        return hugging_face.load(hugging_face.fetch(source.removeprefix("hf:")), source, phrases)
    if is_url(source):
        promised = sha256 or hash_in_name(source)
        if promised is None:
            raise UsageError(f"{source}: the file's name holds no hash; give it as --sha256 HEX.")
        return _load_file(fetch(source, promised, progress), source, wanted)

    path = Path(source).expanduser()
    if path.suffix.lower() in EXPORTS.values():
        raise UsageError(NOTHING_INSIDE.format(source))
    if best := find(path, BEST):
        return _load_kept(best, source)
    if folder.is_one(path):
        return folder.load(path, source)
    if (path / hugging_face.CONFIG).is_file():
        return hugging_face.load(path, source, phrases)
    if path.is_dir():
        raise WeightsError(
            f"{source}: this folder is neither a run (no {BEST}{native.ENDING}) nor a Hugging Face model "
            f"(no {hugging_face.CONFIG})."
        )
    if path.is_file():
        if sha256 is not None:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != sha256.lower():
                raise WeightsError(f"{source}: it has the SHA-256 {found}, not {sha256}.")
        return _load_file(path, source, wanted)
    raise unknown_weights(source)


def _shipped(name: str) -> Checkpoint:
    one = SHIPPED[name]
    if one.detector is None or one.model is None:
        return native.load(one.path, name)
    detector = replace(_shipped(one.detector), source=name)
    return with_mask_head(detector, one.model, native.load_part(one.path, name))


def _load_kept(path: Path, source: str) -> Checkpoint:
    return native.load(path, source) if path.is_file() else folder.load(path, source)


def _load_file(path: Path, source: str, wanted: ModelConfig | None) -> Checkpoint:
    if path.suffix == ".safetensors":
        return native.load(path, source)
    return published.load(path, source, wanted)
