"""The interface of a model architecture, through which the rest of the package uses models."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from detrcli.config import LossConfig, ModelConfig, Preprocessing
from detrcli.errors import UsageError
from detrcli.losses.criterion import Loss
from detrcli.losses.scoring import Scoring
from detrcli.model.detection_transformer import DetectionTransformer
from detrcli.model.inspectable import Inspectable
from detrcli.resize import InputSides, Resize
from detrcli.segmentation.maps import Segmentation
from detrcli.structures import Classes

C = TypeVar("C", bound=ModelConfig)


class StateDictAdapter(ABC, Generic[C]):
    """Conversion of another project's state dicts to ours."""

    @abstractmethod
    def recognizes(self, names: Collection[str]) -> bool:
        """Return whether tensors of these names belong to the architecture."""

    @abstractmethod
    def rename(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors under our names."""

    @abstractmethod
    def infer(self, source: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], wanted: C | None) -> C:
        """Return the config of a model that holds the renamed tensors.

        `facts` are the arguments of a training script or the content of config.json, `wanted` the config that the user
        named, for what tensors do not determine. Raises WeightsError, which names `source`, for other tensors.
        """


@dataclass(frozen=True)
class PretrainedBackbone:
    """A backbone for which torchvision has weights trained on ImageNet."""

    model: str  # its name in torchvision
    prefix: str  # of our tensor names, before torchvision's
    obstacle: str | None = None  # why the weights do not fit the config


class ImportedModel(NamedTuple):
    """The content of another library's folder."""

    config: ModelConfig
    tensors: Mapping[str, Tensor]
    names: Mapping[int, str]  # class names by index, where the folder has them
    preprocessing: Preprocessing


@dataclass(frozen=True)
class DataFacts:
    """Statistics of the training data, by which a recipe can choose settings."""

    images: int
    shorter: int = 480  # median of the shorter sides, in pixels
    longer: int = 640
    objects: int = 10  # maximum in an image
    small: int = 32  # lower quartile of the objects' shorter sides, in pixels

    def __str__(self) -> str:
        return (
            f"{self.images:,} images of {self.longer} x {self.shorter}, at most {self.objects} objects in each, "
            f"a quarter of them up to {self.small} pixels"
        )


class Rows(NamedTuple):
    """A newly initialized tensor with rows of classes or queries along an axis.

    Queries in several groups have a row in each group. Other rows, such as those of positions, come before them.
    """

    tensor: Tensor
    axis: int = 0
    groups: int = 1

    def keep_queries(self, old: Tensor, before: int, now: int, *, draw: bool) -> Tensor:
        """Copy the rows of the queries that both tensors have, and all rows that are not of queries.

        With `draw`, the other rows are drawn from the normal distribution of the old rows, channel by channel.
        """
        first = self.tensor.shape[self.axis] - self.groups * now
        rows, old_rows = self.tensor.movedim(self.axis, 0), old.movedim(self.axis, 0)  # views
        rows[:first] = old_rows[:first]
        new = rows[first:].view(self.groups, now, *rows.shape[1:])
        kept = old_rows[first:].view(self.groups, before, *rows.shape[1:])
        if draw and now > before:
            mean, std = kept.mean((0, 1)), kept.std((0, 1), correction=0)
            new[:, before:] = mean + std * torch.randn_like(new[:, before:])
        new[:, :before] = kept[:, :now]
        return self.tensor


class Architecture(ABC, Generic[C]):
    """A model architecture with its presets, loss and training recipe.

    A module defines a subclass and an instance of it, which `detrcli.architectures` or an entry point lists.
    """

    name: str  # in the headers of our files
    config: type[C]
    presets: Mapping[str, C] = {}
    preprocessing = Preprocessing()
    loss = LossConfig()  # of training, unless the user changes it
    recipe_uses_data = False
    # Whether torch.nn.init sets all initial values in place, in tensors that are not copied afterwards.
    initialized_in_place = False
    # Whether queries that are added are drawn like the trained queries, instead of as in a new model.
    draws_queries = False
    detector: "Architecture[Any] | None" = None  # to which it adds a mask head
    published: StateDictAdapter[C] | None = None  # for checkpoints of the authors' training script
    hugging_face: Mapping[str, StateDictAdapter[C]] = {}  # by transformers' `model_type`
    # The `model_type`, or a class of `architectures`, in config.json of folders that another library reads.
    model_types: Collection[str] = ()
    takes_phrases = False  # whether its classes are phrases that the user gives

    @abstractmethod
    def build(self, config: C) -> DetectionTransformer:
        """Return a newly initialized model."""

    @abstractmethod
    def scoring(self, config: C) -> Scoring:
        """Return the interpretation of the class logits."""

    @abstractmethod
    def make_loss(self, config: C, loss: LossConfig) -> Loss:
        """Return the training loss."""

    @abstractmethod
    def inspect(self, model: Any) -> Inspectable:
        """Return access to the attention and the stages of a model that `build` returned."""

    def read(self, folder: Path, source: str, phrases: Sequence[str]) -> ImportedModel:
        """Read a folder of `model_types`. Raises WeightsError, which names `source`, or UsageError for phrases."""
        raise NotImplementedError  # only for architectures with `model_types`

    def read_checkpoint(self, content: Mapping[str, Any], file: str, source: str) -> ImportedModel | None:
        """Convert an unpickled checkpoint of the repository that published the model; None for any other.

        Without class names it has COCO's classes.
        """
        return None

    def segmentation(self, config: C) -> Segmentation | None:
        """Return how masks and maps are made of the model's output; None for a model without masks."""
        return None

    def clips_boxes(self, config: C) -> bool:
        """Return whether the boxes of detections are clipped to the image, as by the published code."""
        return False

    def input_sides(self, config: C) -> InputSides:
        """Return the sides of inputs that the network takes."""
        return InputSides()

    def max_queries(self, config: C, resize: Resize) -> int | None:
        """Return the number of tokens from which queries are selected; None if the number of queries is not limited."""
        return None

    def recipe(self, config: C, facts: DataFacts) -> Mapping[str, Any]:
        """Return the training settings that replace the general defaults."""
        return {}

    def summary(self, config: C) -> str:
        """Return the properties in which presets differ. Models with the same summary are interchangeable."""
        return ""

    def describe(self, config: C) -> str:
        summary = self.summary(config)
        return f"{self.name} ({summary})" if summary else self.name

    def pretrained_backbone(self, config: C) -> PretrainedBackbone | None:
        """Return which weights of torchvision the backbone can start from, if any."""
        return None

    def parameter_groups(self, model: DetectionTransformer) -> Mapping[str, list[nn.Parameter]]:
        """Return the trainable parameters in groups, each with a learning rate, which is lower for the backbone."""
        backbone = set(model.backbone.parameters())
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return {
            "transformer": [parameter for parameter in trainable if parameter not in backbone],
            "backbone": [parameter for parameter in trainable if parameter in backbone],
        }

    def changed(self, config: C, **changes: Any) -> C:
        """Return the config with the changes that are not None. Raises UsageError for fields that it lacks."""
        changes = {name: value for name, value in changes.items() if value is not None}
        if unknown := changes.keys() - {field.name for field in fields(config)}:
            raise UsageError(f"{min(unknown)}: a {self.name} has no such setting.")
        return replace(config, **changes)

    def unfilled(self, config: C) -> DetectionTransformer:
        """Return a model whose tensors are about to be replaced, on the meta device where possible."""
        with torch.device("meta"), DeferredInit():
            return self.build(config)

    def fresh_rows(self, config: C, count: Literal["classes", "queries"]) -> dict[str, Rows]:
        """Return the tensors with rows of classes or queries, newly initialized.

        These are the tensors that grow in a model with one class or query more. Raises UsageError where a tensor grows
        in another way.
        """
        init = DeferredInit()
        with init if self.initialized_in_place else nullcontext():
            state = self.build(config).state_dict()
        number = getattr(config, count)
        larger = self.unfilled(replace(config, **{count: number + 1})).state_dict()
        rows = {}
        for name, tensor in state.items():
            growth = [after - before for before, after in zip(tensor.shape, larger[name].shape, strict=True)]
            if not any(growth):
                continue
            axis = growth.index(max(growth))
            rows[name] = Rows(tensor, axis, growth[axis])
            valid = sum(map(abs, growth)) == growth[axis] and tensor.shape[axis] >= growth[axis] * number
            if not valid or (count == "classes" and (axis, growth[axis]) != (0, 1)):
                raise UsageError(f"{self.describe(config)}: its number of {count} cannot be changed ({name}).")
        # By module, those with more rows first: the order decides which random numbers a tensor gets.
        by_module = sorted(rows, key=lambda name: (-len(rows[name].tensor), name.rpartition(".")[0]))
        init.run([rows[name].tensor for name in by_module])
        return rows


class FolderArchitecture(Architecture[C]):
    """An architecture whose checkpoints are folders of files instead of a single file."""

    @abstractmethod
    def write(
        self, config: C, tensors: Mapping[str, Tensor], classes: Classes, preprocessing: Preprocessing
    ) -> Mapping[str, bytes]:
        """Return the contents of the files by name."""

    def obstacle(self, config: C) -> str | None:
        """Return why the library that the files belong to would compute other predictions, if it would."""
        return None

    @abstractmethod
    def read_tensors(self, folder: Path) -> dict[str, Tensor]:
        """Read the tensors of a folder with these files."""


CONSTANT = frozenset({"constant_", "ones_", "zeros_", "eye_", "dirac_"})


class DeferredInit(TorchFunctionMode):
    """Records the initialization of tensors, for models whose tensors are replaced, instead of computing it.

    For some random numbers torch imports modules for a second.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, Callable[..., Any], Sequence[Any], Mapping[str, Any]]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__ or func in (Tensor.normal_, Tensor.uniform_):
            tensor = args[0] if args else kwargs["tensor"]
            self.calls.append((tensor, func, args, kwargs))
            return tensor
        return func(*args, **kwargs)

    @torch.no_grad()
    def run(self, tensors: Iterable[Tensor]) -> None:
        """Initialize these tensors. Random numbers that others replace later are not drawn."""
        for tensor in tensors:
            memory = tensor.untyped_storage().data_ptr()
            calls = [call[1:] for call in self.calls if call[0].untyped_storage().data_ptr() == memory]
            random = [index for index, (func, *_) in enumerate(calls) if func.__name__ not in CONSTANT]
            for func, args, kwargs in calls[random[-1] if random else 0 :]:
                func(*args, **kwargs)
