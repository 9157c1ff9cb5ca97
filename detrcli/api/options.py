"""Weights and datasets, with the options for reading them. Importing this module does not import torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detrcli.checkpoints.registry import DEFAULT
from detrcli.data.checks import Exif
from detrcli.data.source import Files, data_folders
from detrcli.errors import UsageError
from detrcli.inference import EngineName
from detrcli.inference.tiles import OVERLAP, Tiling
from detrcli.messages import argument

WEIGHTS = DEFAULT


@dataclass(frozen=True)
class LoadOptions:
    """Weights, and how to load and compute them. Functions take it in place of the name of weights."""

    weights: str = WEIGHTS  # a name, a file, a folder, `hf:OWNER/NAME` or a URL
    device: str = "auto"
    precision: str | None = None  # fp32, bf16 or fp16; by default fp32, or that of an exported model
    engine: EngineName | None = None  # by default auto for predict and evaluate, else the fastest for the device
    model: str | None = None  # architecture of a .pth file, where its tensors do not determine it
    sha256: str | None = None
    size: int | None = None  # shorter side of the input, by default that of the weights
    max_size: int | None = None
    text: str | Sequence[str] | None = None  # phrases to detect, for models that take phrases
    tiles: int | str | None = None  # tiles that are predicted besides the whole image: N x N, or "WxH" pixels
    overlap: float | None = None  # of neighboring tiles, as a fraction of the tile; by default 0.2
    nms: float | None = None  # IoU above which detections of a class are duplicates; by default all are kept

    def __post_init__(self) -> None:
        self.tiling  # noqa: B018  # raises UsageError for invalid options

    @property
    def tiling(self) -> Tiling:
        """The tiles of images, and the merging of their detections."""
        if self.tiles is None and self.overlap is not None:
            raise UsageError(f"{argument('overlap')} needs {argument('tiles')}.")
        return Tiling(self.tiles, OVERLAP if self.overlap is None else self.overlap, self.nms)


@dataclass(frozen=True)
class DataOptions:
    """A dataset, and how to read it. Functions take it in place of the dataset's path."""

    data: str | Path | None  # None if files are given
    files: Files = field(default_factory=dict)  # annotation file and image folder by split, in place of `data`
    exif: Exif = "auto"  # whether to apply EXIF orientation; auto follows the annotated image size
    skip_bad: bool = False  # leave out broken images and annotations

    @property
    def path(self) -> Path | None:
        return None if self.data is None else Path(self.data)

    @property
    def folders(self) -> list[Path]:
        """The files and folders that belong to the dataset."""
        paths = [self.path, *(images for _, images in self.files.values())]
        return [folder for path in paths if path is not None for folder in data_folders(path)]


Weights = str | Path | LoadOptions
Data = str | Path | DataOptions


def load_options(weights: Weights, device: str = "auto") -> LoadOptions:
    """Return the options for weights that may be a name only."""
    return weights if isinstance(weights, LoadOptions) else LoadOptions(str(weights), device)


def data_options(data: Data | None) -> DataOptions:
    """Return the options for a dataset that may be a path only, or missing."""
    return data if isinstance(data, DataOptions) else DataOptions(data)
