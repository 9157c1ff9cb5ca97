"""Loading weights: by name, or from a file, a folder, Hugging Face, torchvision or a URL."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from detrcli.architectures import Preset, preset, presets
from detrcli.checkpoints.catalog import CATALOG
from detrcli.checkpoints.checkpoint import Checkpoint
from detrcli.checkpoints.fit import with_mask_head
from detrcli.checkpoints.formats import hugging_face, native, published, torchvision
from detrcli.checkpoints.hub import HubModel
from detrcli.checkpoints.phrases import TEXT, phrases_of_classes
from detrcli.checkpoints.registry import EXPORTS, PUBLISHED, SHIPPED, is_url, unknown_model, unknown_weights
from detrcli.checkpoints.sources import obtain, remote
from detrcli.errors import EXPORT_ONLY_PREDICTS, UsageError, WeightsError
from detrcli.messages import argument
from detrcli.reporter import SILENT, Reporter

BEST = "best"  # file name of the best checkpoint of a run, without extension


def load_checkpoint(
    source: str,
    *,
    model: str | None = None,
    sha256: str | None = None,
    phrases: Sequence[str] | None = None,
    class_names: Sequence[str] = (),
    reporter: Reporter = SILENT,
) -> Checkpoint:
    """Load a checkpoint by name, file, folder, `hf:OWNER/NAME` or URL.

    `model` is the name of its preset, for what tensors do not show (DC5). The classes of an open-vocabulary model
    are the phrases, or the class names if there are none; for other models phrases are an error.
    """
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise UsageError(f"{argument('sha256', sha256)}: a SHA-256 has 64 hexadecimal digits.")
    wanted = None if model is None else named_preset(model)
    fixed_classes = source in PUBLISHED or source in SHIPPED or is_url(source)
    fixed_classes |= source in CATALOG and not CATALOG[source].phrases
    fixed_classes |= source.startswith(torchvision.PREFIX) or source.endswith(tuple(EXPORTS.values()))
    checkpoint = None
    if phrases is None or not fixed_classes:  # otherwise, the error below comes before any download
        checkpoint = _load(source, wanted, sha256, phrases or phrases_of_classes(class_names), reporter)
    if checkpoint is None or (phrases is not None and not checkpoint.architecture.takes_phrases):
        types = [name for name, known in hugging_face.imported_types().items() if known.takes_phrases]
        raise UsageError(
            f"{TEXT}: {source} has a fixed set of classes. Phrases are for folders and hf:OWNER/NAME of the types "
            f"{', '.join(types)}."
        )
    architecture, config = checkpoint.architecture, checkpoint.config
    if wanted is not None and (
        architecture is not wanted.architecture or architecture.summary(config) != architecture.summary(wanted.config)
    ):
        raise UsageError(f"{source}: not a {model}: it is a {architecture.describe(config)}.")
    return checkpoint


def _load(
    source: str, wanted: Preset | None, sha256: str | None, phrases: Sequence[str], reporter: Reporter
) -> Checkpoint:
    if source in SHIPPED:
        return _load_shipped(source)
    if source.startswith(torchvision.PREFIX):
        return torchvision.load(source, reporter)
    path = Path(source).expanduser()
    path = path if path.name else path.resolve()  # "." is the current folder
    if (where := remote(source, sha256)) is not None:
        path, sha256 = obtain(source, where, reporter), None  # which checks the hash
        wanted = preset(source) if source in PUBLISHED else wanted
        if isinstance(where, HubModel):
            return hugging_face.load(path, source, phrases)
    elif path.suffix.lower() in EXPORTS.values():
        raise UsageError(EXPORT_ONLY_PREDICTS.format(source))
    elif best := native.find(path, BEST):
        path = best
    if native.is_folder(path):
        return native.load_folder(path, source)
    if (path / hugging_face.CONFIG).is_file():
        return hugging_face.load(path, source, phrases)
    if path.is_dir():
        raise WeightsError(
            f"{source}: this folder is neither a run (no {BEST}{native.ENDING}) nor a Hugging Face model "
            f"(no {hugging_face.CONFIG})."
        )
    if not path.is_file():
        raise unknown_weights(source)
    if sha256 is not None:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256.lower():
            raise WeightsError(f"{source}: the file has the SHA-256 {digest}, not {sha256}.")
    return native.load(path, source) if path.suffix == native.ENDING else published.load(path, source, wanted)


def named_preset(name: str) -> Preset:
    """Return the preset with this name. Raises UsageError, with a hint, for an unknown name."""
    if name not in presets():
        raise unknown_model(name, list(presets()))
    return preset(name)


def _load_shipped(name: str) -> Checkpoint:
    shipped = SHIPPED[name]
    if shipped.detector is None or shipped.model is None:
        return native.load(shipped.path, name)
    detector = replace(_load_shipped(shipped.detector), source=name)
    return with_mask_head(detector, shipped.model, native.load_part(shipped.path, name))
