"""Access to transformers: its import, its errors, and the content of its folders."""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from detrcli.architectures.adapters.families import Family
from detrcli.architectures.adapters.originals.conversion import Converted
from detrcli.config import Preprocessing
from detrcli.errors import UsageError, WeightsError
from detrcli.resize import BoundedEdges, ExactSize, FitInside, PaddedSquare, RaisedEdges, Resize

NEEDED = "Models of transformers need it to be installed: pip install 'detrcli[models]'"
# For every function that reads a folder: no download, and no code from the folder.
LOCAL: Mapping[str, bool] = {"local_files_only": True, "trust_remote_code": False}
MAX_ERROR = 300  # characters of an error of transformers; some list everything that it knows
# In a config.json: far above that of any of these models, and too low to exhaust the memory.
MAX_LAYERS, MAX_NUMBER = 1_000, 100_000

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
WITH_TOKENIZER = "processor_config.json"  # instead, if the processor includes a tokenizer
# Resampling filters by their number in Pillow.
FILTERS: Mapping[int, Literal["nearest", "bilinear", "bicubic"]] = {0: "nearest", 2: "bilinear", 3: "bicubic"}


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


def load(auto_class: str, folder: Path, family: Family, source: str) -> tuple[Any, Any]:
    """Load the network, by a class such as AutoModelForObjectDetection, and the image processor."""
    with loading(source), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network, notes = getattr(import_transformers(), auto_class).from_pretrained(
            folder, dtype="float32", output_loading_info=True, use_safetensors=True, **LOCAL
        )
        processor = _load_processor(folder, family, network.config)
    _check_fit(notes, ("missing", "mismatched"), source)
    return network, processor


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


def _load_processor(folder: Path, family: Family, config: Any) -> Any:
    """Load the image processor, or create the family's with its defaults if the folder has none."""
    transformers = import_transformers()
    default = getattr(transformers, family.processor)
    if any((folder / name).is_file() for name in (PROCESSOR, WITH_TOKENIZER)):
        try:
            return transformers.AutoImageProcessor.from_pretrained(folder, **LOCAL)
        except ValueError:  # of a class that transformers no longer has
            return default.from_pretrained(folder, **LOCAL)
    if not family.side:
        return default()
    side = attrgetter(family.side)(config)
    height, width = side if isinstance(side, list | tuple) else (side, side)
    return default(size={"height": height, "width": width})


def preprocessing_of(processor: Any, family: Family, source: str) -> Preprocessing:
    """Return the preprocessing of an image processor. Raises WeightsError if it is not supported."""
    resample = int(processor.resample)
    unsupported = {
        "images are not resized or not rescaled": not (processor.do_resize and processor.do_rescale),
        f"rescale_factor is {processor.rescale_factor}": abs(processor.rescale_factor - 1 / 255) > 1e-9,
        "images are padded or cropped": getattr(processor, "pad_size", None) or getattr(processor, "do_center_crop", 0),
        f"the filter is {resample}": resample not in FILTERS,
    }
    for problem, present in unsupported.items():
        if present:
            raise WeightsError(f"{source}: {PROCESSOR}: {problem}, which is not supported.")
    # Some processors round sides up to multiples of `size_divisor`, others down to multiples of the family's divisor.
    round_up_to = int(getattr(processor, "size_divisor", None) or 1)
    rule = _resize_rule(dict(processor.size), family.divisor, round_up_to, source)
    padded = family.resizing == "padded first"
    if padded:
        if not (isinstance(rule, ExactSize) and processor.do_pad):
            raise WeightsError(f"{source}: {PROCESSOR}: images must be padded to a square of one size.")
        rule = PaddedSquare(rule.height, rule.width)
    antialiased = family.resizing == "antialiased"
    colors: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    if processor.do_normalize:
        colors = {name: tuple(map(float, getattr(processor, f"image_{name}"))) for name in colors}
    return Preprocessing(
        rule,
        filter="bilinear" if padded else FILTERS[resample],  # a processor that pads ignores its filter
        antialias=antialiased,
        blur=padded,  # as OWLv2's processor
        rescale_first=not antialiased,
        backend="torchvision",
        **colors,
    )


def _resize_rule(size: Mapping[str, int | None], divisor: int, round_up_to: int, source: str) -> Resize:
    """Return the rule of a processor's `size`, which rounds down to multiples of `divisor` or up to `round_up_to`."""
    given = {key: value for key, value in size.items() if value}
    if given.keys() == {"shortest_edge", "longest_edge"}:
        edges = given["shortest_edge"], given["longest_edge"]
        return BoundedEdges(*edges, divisor) if round_up_to == 1 else RaisedEdges(*edges, round_up_to)
    if given.keys() == {"max_height", "max_width"} and round_up_to == 1:
        return FitInside(given["max_height"], given["max_width"])
    if given.keys() == {"height", "width"}:
        return ExactSize(*(-(-given[side] // round_up_to) * round_up_to for side in ("height", "width")))
    raise WeightsError(f"{source}: {PROCESSOR}: the size {given} is not supported.")


def size_of(rule: Resize) -> dict[str, int]:
    """Return the `size` of an image processor with this rule, the inverse of `_resize_rule`."""
    if isinstance(rule, BoundedEdges):
        return {"shortest_edge": rule.size, "longest_edge": rule.max_size}
    if isinstance(rule, FitInside):
        return {"max_height": rule.height, "max_width": rule.width}
    assert isinstance(rule, ExactSize)
    return {"height": rule.height, "width": rule.width}
