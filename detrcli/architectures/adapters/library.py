"""Access to transformers: its import, its errors, and the networks of its folders."""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detrcli.architectures.adapters.families import Family
from detrcli.architectures.adapters.originals.conversion import Converted
from detrcli.errors import UsageError, WeightsError

NEEDED = "Models of transformers need it to be installed: pip install 'detrcli[models]'"
# For every function that reads a folder: no download, and no code from the folder.
LOCAL: Mapping[str, bool] = {"local_files_only": True, "trust_remote_code": False}
MAX_ERROR = 300  # characters of an error of transformers; some list everything that it knows
# In a config.json: far above that of any of these models, and too low to exhaust the memory.
MAX_LAYERS, MAX_NUMBER = 1_000, 100_000

CONFIG = "config.json"


def import_transformers() -> Any:
    """Import transformers without its progress bars and notes. Raises WeightsError if it is not installed."""
    try:
        import transformers
    except ImportError:
        raise WeightsError(NEEDED) from None
    library: Any = transformers
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    return library


@contextmanager
def loading(source: str) -> Iterator[None]:
    """Turn any error of transformers into a WeightsError of one line."""
    try:
        yield
    except WeightsError:  # of its import
        raise
    except Exception as error:  # it raises all kinds of errors for damaged folders
        lines = str(error).strip().splitlines()
        reason = lines[0][:MAX_ERROR] if lines else repr(error)
        raise WeightsError(f"{source}: transformers does not load it: {reason}") from None


def check_numbers(facts: Any, key: str = "") -> None:
    """Raise UsageError if a config.json, or a part of it, has a number that no model has."""
    if isinstance(facts, dict):
        for name, value in facts.items():
            if name not in ("id2label", "label2id"):
                check_numbers(value, name)
    elif isinstance(facts, list):
        for value in facts:
            check_numbers(value, key)
    elif isinstance(facts, int):
        maximum = MAX_LAYERS if "layers" in key or "depth" in key else MAX_NUMBER
        if facts > maximum:
            raise UsageError(f"{key} = {facts!r:.40}: must be at most {maximum:,}.")


def model_type_of(folder: Path, source: str, *, has_masks: bool = False) -> str:
    """Return the `model_type` of a folder. Raises WeightsError for models that are not supported."""
    facts = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    architecture = (facts.get("architectures") or [""])[0]
    if "Segmentation" in architecture and not has_masks:
        raise WeightsError(f"{source}: {architecture} has masks. Only detectors (...ForObjectDetection) are read.")
    if facts.get("quantization_config"):
        raise WeightsError(f"{source}: the weights are quantized. Only float32, float16 and bfloat16 are read.")
    if facts.get("use_focal_loss") is False:
        raise WeightsError(f"{source}: use_focal_loss = false is not supported: scores would not be probabilities.")
    try:
        check_numbers(facts)
    except UsageError as error:
        raise WeightsError(f"{source}: {CONFIG}: {error}") from None
    return str(facts["model_type"])


def load(auto_class: str, folder: Path, source: str) -> Any:
    """Load the network, by a class such as AutoModelForObjectDetection."""
    with loading(source), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network, notes = getattr(import_transformers(), auto_class).from_pretrained(
            folder, dtype="float32", output_loading_info=True, use_safetensors=True, **LOCAL
        )
    _check_fit(notes, ("missing", "mismatched"), source)
    return network


def load_converted(converted: Converted, family: Family, source: str) -> tuple[Any, Any]:
    """Build the network and the image processor of a converted checkpoint."""
    transformers = import_transformers()
    with loading(source), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = transformers.AutoConfig.for_model(converted.model_type, **converted.facts)
        network, notes = getattr(transformers, converted.network).from_pretrained(
            None, config=config, state_dict=dict(converted.tensors), dtype="float32", output_loading_info=True
        )
        processor = getattr(transformers, family.processor)(**converted.processor)
    _check_fit(notes, ("missing", "unexpected", "mismatched"), source)
    return network, processor


def _check_fit(notes: Mapping[str, Any], kinds: Sequence[str], source: str) -> None:
    for kind in kinds:
        # Counters of batch norm, which only a momentum of None uses, are not in all checkpoints.
        if keys := [key for key in map(str, notes[f"{kind}_keys"]) if not key.endswith("num_batches_tracked")]:
            names = ", ".join(sorted(keys)[:3])
            raise WeightsError(f"{source}: the tensors do not fit the model. {kind}: {names}.")
