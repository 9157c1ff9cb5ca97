"""Models in the folders that transformers writes: read by it, and written so that it reads them again."""

import copy
import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from detrcli.architectures.adapters.config import (
    AdaptedConfig,
    MaskConfig,
    OpenVocabularyConfig,
    check_numbers,
    queries_key,
)
from detrcli.architectures.adapters.families import FAMILIES, MASK_FAMILIES, OPEN_VOCABULARY, Family
from detrcli.architectures.adapters.library import LOCAL, loaded, the_library
from detrcli.architectures.adapters.network import AdaptedNetwork
from detrcli.architectures.adapters.phrases import READERS, tokenizer_of
from detrcli.architectures.architecture import ImportedModel
from detrcli.architectures.foreign import OWN
from detrcli.config import Preprocessing
from detrcli.errors import UsageError, WeightsError
from detrcli.resize import BoundedEdges, ExactSize, FitInside, PaddedSquare, RaisedEdges, Resize
from detrcli.structures import Classes

CONFIG, TENSORS, PROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
WITH_TOKENIZER = "processor_config.json"  # in its place, where the processor has a tokenizer too
# By Pillow's numbers.
FILTERS: Mapping[int, Literal["nearest", "bilinear", "bicubic"]] = {0: "nearest", 2: "bilinear", 3: "bicubic"}


def read(folder: Path, source: str) -> ImportedModel[AdaptedConfig]:
    """A folder of one of the families; code that lies in it is not run."""
    model_type = _type_of(folder, source, has_masks=False)
    family = FAMILIES[model_type]
    network, processor = _loaded(the_library().AutoModelForObjectDetection, folder, family, source)
    numbers = network.config
    key = queries_key(family, numbers)
    config = AdaptedConfig(
        queries=int(getattr(numbers, key)),
        classes=int(numbers.num_labels),
        model_type=model_type,
        facts=json.dumps(numbers.to_dict()),
        processor=json.dumps(processor.to_dict(), default=str),
    )
    return ImportedModel(
        config,
        {OWN + name: tensor for name, tensor in network.state_dict().items()},
        {int(index): str(name) for index, name in numbers.id2label.items()},
        preprocessing(processor, family, source),
    )


def read_for_phrases(folder: Path, source: str, phrases: Sequence[str]) -> ImportedModel[OpenVocabularyConfig]:
    """Likewise of one that looks for phrases, which are read by the tokenizer that lies in the folder."""
    transformers = the_library()
    model_type = _type_of(folder, source, has_masks=False)
    family = OPEN_VOCABULARY[model_type]
    tokenizer = tokenizer_of(folder, family, source)
    numbers = loaded(source, lambda: transformers.AutoConfig.from_pretrained(folder, **LOCAL))
    texts, spans = READERS[family.text](phrases, tokenizer, numbers, source)  # before the tensors are read
    network, processor = _loaded(transformers.AutoModelForZeroShotObjectDetection, folder, family, source)
    config = OpenVocabularyConfig(
        queries=_queries(numbers),
        classes=len(phrases),
        model_type=model_type,
        facts=json.dumps(numbers.to_dict()),
        texts=texts,
        spans=spans,
    )
    return ImportedModel(
        config,
        {OWN + name: tensor for name, tensor in network.state_dict().items()},
        dict(enumerate(phrases)),
        preprocessing(processor, family, source),
    )


def read_with_masks(folder: Path, source: str) -> ImportedModel[MaskConfig]:
    """Likewise of one whose queries have masks and no boxes."""
    model_type = _type_of(folder, source, has_masks=True)
    family = MASK_FAMILIES[model_type]
    network, processor = _loaded(the_library().AutoModelForUniversalSegmentation, folder, family, source)
    numbers = network.config
    config = MaskConfig(
        queries=int(attrgetter(family.queries)(numbers)),
        classes=int(numbers.num_labels),
        model_type=model_type,
        facts=json.dumps(numbers.to_dict()),
    )
    return ImportedModel(
        config,
        {OWN + name: tensor for name, tensor in network.state_dict().items()},
        {int(index): str(name) for index, name in numbers.id2label.items()},
        preprocessing(processor, family, source),
    )


def _queries(numbers: Any) -> int:
    """How many there are; patches of the picture where it has no others."""
    if hasattr(numbers, "num_queries"):
        return int(numbers.num_queries)
    of_picture = numbers.vision_config
    return int((of_picture.image_size // of_picture.patch_size) ** 2)


def _type_of(folder: Path, source: str, *, has_masks: bool) -> str:
    """Its `model_type`; a WeightsError where it is not read all the same."""
    facts = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    _refuse(facts, source, has_masks=has_masks)
    try:
        check_numbers(facts)
    except UsageError as error:
        raise WeightsError(f"{source}: {CONFIG}: {error}") from None
    return str(facts["model_type"])


def _loaded(task: Any, folder: Path, family: Family, source: str) -> tuple[Any, Any]:
    """Network and image processor, by the class of a task."""

    def load() -> tuple[Any, Any, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network, notes = task.from_pretrained(
                folder, dtype="float32", output_loading_info=True, use_safetensors=True, **LOCAL
            )
        return network, _processor(folder, family, network.config), notes

    network, processor, notes = loaded(source, load)
    for what in ("missing_keys", "mismatched_keys"):
        if notes[what]:
            some = ", ".join(sorted(map(str, notes[what]))[:3])
            raise WeightsError(f"{source}: the tensors do not fit the model. {what.split('_')[0]}: {some}.")
    return network, processor


def _refuse(facts: Mapping[str, Any], source: str, *, has_masks: bool) -> None:
    """What looks like one of the families and is not taken."""
    architectures = facts.get("architectures") or [""]
    if "Segmentation" in architectures[0] and not has_masks:
        raise WeightsError(f"{source}: {architectures[0]} has masks; read are detectors (...ForObjectDetection).")
    if facts.get("quantization_config"):
        raise WeightsError(f"{source}: its weights are quantised; read are those in float32, float16 or bfloat16.")
    if facts.get("use_focal_loss") is False:
        raise WeightsError(f"{source}: use_focal_loss = false is not read: its scores are no probabilities of classes.")


def _processor(folder: Path, family: Family, numbers: Any) -> Any:
    """As transformers would choose it; of the family's kind, with its defaults, where the folder has none."""
    transformers = the_library()
    made = getattr(transformers, family.processor)
    if any((folder / name).is_file() for name in (PROCESSOR, WITH_TOKENIZER)):
        try:
            return transformers.AutoImageProcessor.from_pretrained(folder, **LOCAL)
        except ValueError:  # of a class that transformers had once
            return made.from_pretrained(folder, **LOCAL)
    if not family.side:
        return made()
    side = attrgetter(family.side)(numbers)
    height, width = side if isinstance(side, list | tuple) else (side, side)
    return made(size={"height": height, "width": width})


def preprocessing(processor: Any, family: Family, source: str) -> Preprocessing:
    """What a processor does to a picture, as a value; a WeightsError where that cannot be said."""
    if not (processor.do_resize and processor.do_rescale):
        raise WeightsError(f"{source}: {PROCESSOR} wants pictures that are not resized or not rescaled.")
    if abs(processor.rescale_factor - 1 / 255) > 1e-9:
        raise WeightsError(f"{source}: {PROCESSOR} rescales by {processor.rescale_factor}, not by 1/255.")
    if getattr(processor, "pad_size", None) or getattr(processor, "do_center_crop", False):
        raise WeightsError(f"{source}: {PROCESSOR} pads or cuts pictures to a size; read are those that resize.")
    resample = int(processor.resample)
    if resample not in FILTERS:
        known = ", ".join(FILTERS.values())
        raise WeightsError(f"{source}: {PROCESSOR} resizes by filter {resample}; read are {known}.")
    # Some cut the sides of their input to multiples of a number, some raise them.
    raised = int(getattr(processor, "size_divisor", None) or 1)
    rule, padded = (_rule(dict(processor.size), family.divisor, raised, source), family.resizing == "padded first")
    if padded:
        if not (isinstance(rule, ExactSize) and processor.do_pad):
            raise WeightsError(f"{source}: {PROCESSOR} does not pad to a square of one size; read are those that do.")
        rule = PaddedSquare(rule.height, rule.width)
    antialiased, normalised = family.resizing == "antialiased", processor.do_normalize
    return Preprocessing(
        rule,
        filter="bilinear" if padded else FILTERS[resample],  # such a processor asks for no other
        antialias=antialiased,
        blur=padded,
        rescale_first=not antialiased,
        mean=_colour(processor.image_mean) if normalised else (0.0, 0.0, 0.0),
        std=_colour(processor.image_std) if normalised else (1.0, 1.0, 1.0),
        backend="torchvision",
    )


def _colour(values: Any) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue


def _rule(size: Mapping[str, int | None], cut: int, raised: int, source: str) -> Resize:
    given = {key: value for key, value in size.items() if value}
    if given.keys() == {"shortest_edge", "longest_edge"}:
        edges = given["shortest_edge"], given["longest_edge"]
        return BoundedEdges(*edges, cut) if raised == 1 else RaisedEdges(*edges, raised)
    if given.keys() == {"max_height", "max_width"} and raised == 1:
        return FitInside(given["max_height"], given["max_width"])
    if given.keys() == {"height", "width"}:
        return ExactSize(*(-(-given[side] // raised) * raised for side in ("height", "width")))
    raise WeightsError(f"{source}: {PROCESSOR} wants pictures of {given}, which is no size that is read.")


def _size(rule: Resize) -> dict[str, int]:
    """The other way round."""
    if isinstance(rule, BoundedEdges):
        return {"shortest_edge": rule.size, "longest_edge": rule.max_size}
    if isinstance(rule, FitInside):
        return {"max_height": rule.height, "max_width": rule.width}
    assert isinstance(rule, ExactSize)
    return {"height": rule.height, "width": rule.width}


def write(
    config: AdaptedConfig, tensors: Mapping[str, Tensor], classes: Classes, preprocessing: Preprocessing
) -> Mapping[str, bytes]:
    """The files of a folder that transformers loads, with the names of the classes."""
    network = AdaptedNetwork(config)
    network.load_state_dict(dict(tensors))
    inner = network.network
    inner.config = copy.deepcopy(inner.config)
    inner.config.id2label = {index: str(name) for index, name in enumerate(classes.names)}
    inner.config.label2id = {name: index for index, name in inner.config.id2label.items()}
    facts = json.loads(config.processor)
    facts["size"] = _size(preprocessing.resize)
    with tempfile.TemporaryDirectory() as place:
        inner.save_pretrained(place, max_shard_size="100GB")
        files = {path.name: path.read_bytes() for path in Path(place).iterdir()}
    return {**files, PROCESSOR: json.dumps(facts, indent=2).encode()}


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder that was written here."""
    network = the_library().AutoModelForObjectDetection.from_pretrained(folder, dtype="float32", **LOCAL)
    return {OWN + name: tensor for name, tensor in network.state_dict().items()}
