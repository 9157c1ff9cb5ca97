"""What a user means by `--weights W`."""

import re
from pathlib import Path

from detrcli.errors import UsageError, WeightsError
from detrcli.variants import VARIANTS
from detrcli.weights import hugging_face, native, published
from detrcli.weights.download import Progress, fetch, hash_in_name, no_progress
from detrcli.weights.registry import PUBLISHED
from detrcli.weights.weights import NO_MASKS, Weights

BEST = "best.safetensors"


def load_weights(
    source: str, *, model: str | None = None, sha256: str | None = None, progress: Progress = no_progress
) -> Weights:
    """Weights by name, file, folder, `hf:OWNER/NAME` or URL. `model` names what tensors cannot tell (DC5)."""
    if model is not None and model not in VARIANTS:
        raise UsageError(f"--model {model}: there is {', '.join(VARIANTS)}.")
    dilated = None if model is None else VARIANTS[model].dilated

    if source in PUBLISHED:
        known = PUBLISHED[source]
        if known.panoptic:
            raise WeightsError(NO_MASKS.format(source))
        path = fetch(known.url, known.sha256, progress)
        return published.load(path, source, dilated=VARIANTS[source].dilated)
    if source.startswith("hf:"):
        return hugging_face.load(hugging_face.fetch(source.removeprefix("hf:")), source)
    if re.match(r"https?://", source):
        wanted = sha256 or hash_in_name(source)
        if wanted is None:
            raise UsageError(f"{source}: the file's name holds no hash; give it as --sha256 HEX.")
        return _load_file(fetch(source, wanted, progress), source, dilated)

    path = Path(source).expanduser()
    if (path / BEST).is_file():
        return native.load(path / BEST, source)
    if (path / hugging_face.CONFIG).is_file():
        return hugging_face.load(path, source)
    if path.is_dir():
        raise WeightsError(
            f"{source}: this folder is neither a run (no {BEST}) nor a Hugging Face model (no {hugging_face.CONFIG})."
        )
    if path.is_file():
        return _load_file(path, source, dilated)
    raise WeightsError(
        f"{source}: no such file or folder, and no name of weights. `detr models` lists the names."
    )


def _load_file(path: Path, source: str, dilated: bool | None) -> Weights:
    if path.suffix == ".safetensors":
        return native.load(path, source)
    return published.load(path, source, dilated=dilated)
