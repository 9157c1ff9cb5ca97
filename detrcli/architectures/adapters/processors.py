"""Image processors of transformers, and their steps as a Preprocessing."""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from detrcli.architectures.adapters.families import Family
from detrcli.architectures.adapters.library import LOCAL, import_transformers, loading
from detrcli.config import Preprocessing
from detrcli.errors import WeightsError
from detrcli.resize import BoundedEdges, ExactSize, FitInside, PaddedEdges, PaddedSquare, RaisedEdges, Resize

PROCESSOR = "preprocessor_config.json"
WITH_TOKENIZER = "processor_config.json"  # instead, if the processor includes a tokenizer
# Resampling filters by their number in Pillow.
FILTERS: Mapping[int, Literal["nearest", "bilinear", "bicubic"]] = {0: "nearest", 2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True)
class Steps:
    """The steps of an image processor class that are not among its settings."""

    antialias: bool = True
    rescale_first: bool = False  # scales values to [0, 1] before resizing
    pads_first: bool = False  # pads to a square, blurs, and then resizes with a bilinear filter
    round_down_to: int = 1  # sides are rounded down to multiples of this
    rounds_up: bool = False  # sides are rounded up to multiples of the setting `size_divisor`
    pads_to_size: bool = False  # with the setting `do_pad`, images are padded to the size after they are resized


PROCESSORS: Mapping[str, Steps] = {
    "DetrImageProcessor": Steps(),
    "ConditionalDetrImageProcessor": Steps(),
    "DeformableDetrImageProcessor": Steps(),
    "GroundingDinoImageProcessor": Steps(),
    "RTDetrImageProcessor": Steps(),
    "RfDetrImageProcessor": Steps(antialias=False, rescale_first=True),
    "YolosImageProcessor": Steps(round_down_to=16),
    "OwlViTImageProcessor": Steps(),
    "Owlv2ImageProcessor": Steps(antialias=False, rescale_first=True, pads_first=True),
    "MaskFormerImageProcessor": Steps(rounds_up=True),
    "Mask2FormerImageProcessor": Steps(rounds_up=True),
    "EomtImageProcessor": Steps(pads_to_size=True),
}


def load_processor(folder: Path, family: Family, config: Any, source: str) -> Any:
    """Load the image processor, of the class that the folder names, else of the family's default class.

    A folder without a processor has the default class with its default settings.
    """
    default = getattr(import_transformers(), family.processor)
    if any((folder / name).is_file() for name in (PROCESSOR, WITH_TOKENIZER)):
        with loading(source):
            facts, _ = default.get_image_processor_dict(folder, **LOCAL)
        named = facts.get("image_processor_type") or facts.get("feature_extractor_type") or family.processor
        name = class_name(str(named))
        if name not in PROCESSORS:
            raise WeightsError(
                f"{source}: {PROCESSOR}: images are prepared by {named}, which is not supported.\n"
                f"The supported image processors are {', '.join(PROCESSORS)}."
            )
        with loading(source):
            return getattr(import_transformers(), name).from_pretrained(folder, **LOCAL)
    if not family.side:
        return default()
    side = attrgetter(family.side)(config)
    height, width = side if isinstance(side, list | tuple) else (side, side)
    return default(size={"height": height, "width": width})


def class_name(name: str) -> str:
    """Return the name of a processor class in transformers 5, which had other names and variants in other versions."""
    return name.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil")


def preprocessing_of(processor: Any, source: str) -> Preprocessing:
    """Return the preprocessing of an image processor. Raises WeightsError if it is not supported."""
    steps, resample = PROCESSORS[class_name(type(processor).__name__)], int(processor.resample)
    unsupported = {
        "images are not resized or not rescaled": not (processor.do_resize and processor.do_rescale),
        f"rescale_factor is {processor.rescale_factor}": abs(processor.rescale_factor - 1 / 255) > 1e-9,
        "images are padded or cropped": getattr(processor, "pad_size", None) or getattr(processor, "do_center_crop", 0),
        f"the filter is {resample}": resample not in FILTERS,
        "images are split for semantic segmentation (do_split_image)": getattr(processor, "do_split_image", False),
    }
    for problem, present in unsupported.items():
        if present:
            raise WeightsError(f"{source}: {PROCESSOR}: {problem}, which is not supported.")
    round_up_to = int((steps.rounds_up and processor.size_divisor) or 1)
    rule = _resize_rule(dict(processor.size), steps.round_down_to, round_up_to, source)
    if steps.pads_first:
        if not (isinstance(rule, ExactSize) and processor.do_pad):
            raise WeightsError(f"{source}: {PROCESSOR}: images must be padded to a square of one size.")
        rule = PaddedSquare(rule.height, rule.width)
    if steps.pads_to_size and processor.do_pad and isinstance(rule, BoundedEdges):
        rule = PaddedEdges(rule.size, rule.max_size)
    colors: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    if processor.do_normalize:
        colors = {name: tuple(map(float, getattr(processor, f"image_{name}"))) for name in colors}
    return Preprocessing(
        rule,
        filter="bilinear" if steps.pads_first else FILTERS[resample],
        antialias=steps.antialias,
        blur=steps.pads_first,
        rescale_first=steps.rescale_first,
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
