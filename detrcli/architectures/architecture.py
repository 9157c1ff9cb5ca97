"""What there is to know of a member of the family wherever any will do. The core asks here and knows no member."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from detrcli.config import LossConfig, ModelConfig, Preprocessing
from detrcli.errors import UsageError
from detrcli.losses.loss import Loss
from detrcli.losses.scoring import Scoring
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.model.inspectable import Inspectable
from detrcli.segmentation.maps import Segmentation
from detrcli.structures import Classes

C = TypeVar("C", bound=ModelConfig)


@dataclass(frozen=True)
class StateDictAdapter(Generic[C]):
    """A member's tensors as others name and keep them."""

    known_by: Callable[[Collection[str]], bool]  # whether these are names of it
    rename: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]  # to our names
    # Where they are from, the tensors under our names, what stands beside them (a script's args, a config.json), and
    # the model that they are said to be, if any: to the config that holds them, or a WeightsError.
    infer: Callable[[str, Mapping[str, Tensor], Mapping[str, Any], C | None], C]


@dataclass(frozen=True)
class TrainedBackbone(Generic[C]):
    """A backbone that others have trained to classify pictures."""

    architecture: Callable[[C], str]  # torchvision's name of it
    prefix: str  # of our names, where torchvision's follow
    refuse: Callable[[C], str | None] = lambda config: None  # why a config cannot take them


@dataclass(frozen=True)
class FolderFormat(Generic[C]):
    """How a model is kept that one file of ours does not hold: as the files of a folder."""

    write: Callable[[C, Mapping[str, Tensor], Classes, Preprocessing], Mapping[str, bytes]]  # by their names
    read: Callable[[Path], dict[str, Tensor]]


@dataclass(frozen=True)
class ImportedModel(Generic[C]):
    """What another library's folder holds."""

    config: C
    tensors: Mapping[str, Tensor]
    names: Mapping[int, str]  # of the classes, where they have one
    preprocessing: Preprocessing


@dataclass(frozen=True)
class Adapter(Generic[C]):
    """A library that builds its models itself, and reads their folders."""

    types: Collection[str]  # the kinds of model that are taken, by the `model_type` in their config.json
    read: Callable[[Path, str], ImportedModel[C]]  # the folder, and what the user called it; or a WeightsError


@dataclass(frozen=True)
class PhraseAdapter(Generic[C]):
    """A library whose models look for phrases: these become the classes."""

    types: Collection[str]
    read: Callable[[Path, str, Sequence[str]], ImportedModel[C]]  # likewise, and the phrases; or a UsageError


def _backbone_apart(model: DetectionTransformer) -> dict[str, list[nn.Parameter]]:
    """What is trained, in groups that have a learning rate each; the backbone's is the lower one."""
    backbone = set(model.backbone.parameters())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return {
        "transformer": [parameter for parameter in trained if parameter not in backbone],
        "backbone": [parameter for parameter in trained if parameter in backbone],
    }


class _NoRandomStart(TorchFunctionMode):
    """A model is built without numbers that would be thrown away: for them torch imports what takes a second."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__ or func in (Tensor.normal_, Tensor.uniform_):
            return args[0] if args else given["tensor"]
        return func(*args, **given)


@dataclass(frozen=True)
class DataFacts:
    """What a recipe may go by."""

    pictures: int
    shorter: int = 480  # of the sides, the median
    longer: int = 640
    objects: int = 10  # the most in one picture
    small: int = 32  # pixels of an object's shorter side: a quarter of them have no more

    def __str__(self) -> str:
        return (
            f"{self.pictures:,} pictures of {self.longer} x {self.shorter}, at most {self.objects} objects in each, "
            f"a quarter of them up to {self.small} pixels"
        )


@dataclass(frozen=True)
class Architecture(Generic[C]):
    """A member of the family: one file that makes one of these, and one line that registers it."""

    name: str  # in the header of our own files
    config: type[C]
    presets: Mapping[str, C]  # what `--model` takes
    build: Callable[[C], DetectionTransformer]  # with its random start
    scoring: Callable[[C], Scoring]
    make_loss: Callable[[C, LossConfig], Loss]
    inspect: Callable[[Any], Inspectable]  # of what `build` gives
    preprocessing: Preprocessing  # what it wants to see unless told otherwise
    class_rows: Callable[[C], Mapping[str, Tensor]]  # its tensors of one row per class, as they start
    query_rows: Callable[[C], Mapping[str, Tensor]]  # likewise per query
    segmentation: Callable[[C], Segmentation | None] = lambda config: None  # where its queries have masks
    loss: LossConfig = field(default_factory=LossConfig)  # as it is trained unless told otherwise
    # Settings of training where the user says nothing: always the same, or by the data.
    recipe: Mapping[str, Any] | Callable[[C, DataFacts], Mapping[str, Any]] = field(default_factory=dict)
    parameter_groups: Callable[[DetectionTransformer], Mapping[str, list[nn.Parameter]]] = _backbone_apart
    difference: Callable[[C, C], str] = lambda found, wanted: ""  # what makes one another model than the other
    summary: Callable[[C], str] = lambda config: ""  # what sets a preset apart, for a list of them
    published: StateDictAdapter[C] | None = None  # as the published training script saves it
    hugging_face: Mapping[str, StateDictAdapter[C]] = field(default_factory=dict)  # by transformers' `model_type`
    adapter: Adapter[C] | None = None  # where another library computes it
    phrases: PhraseAdapter[C] | None = None  # likewise, where phrases that are given become its classes
    build_unfilled: Callable[[C], DetectionTransformer] | None = None  # where it cannot be built as ours are
    backbone: TrainedBackbone[C] | None = None
    detector: "Architecture[Any] | None" = None  # the member that it puts a mask head on
    folder: FolderFormat[C] | None = None  # None: kept as one file of ours

    def unfilled(self, config: C) -> DetectionTransformer:
        """The network for tensors that are about to come: nothing is drawn for it."""
        if self.build_unfilled is not None:
            return self.build_unfilled(config)
        with torch.device("meta"), _NoRandomStart():
            return self.build(config)

    def recipe_for(self, config: C, facts: DataFacts) -> Mapping[str, Any]:
        """The recipe of such a model for such data."""
        return self.recipe(config, facts) if callable(self.recipe) else self.recipe

    def changed(self, config: C, **changes: Any) -> C:
        """The config with other values, where they are given; a UsageError for what such a model does not have."""
        given = {name: value for name, value in changes.items() if value is not None}
        known = {one.name for one in fields(config)}
        for name in given:
            if name not in known:
                raise UsageError(f"{name}: a {self.name} has no such number.")
        return replace(config, **given)
