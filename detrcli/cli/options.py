"""Options that commands share."""

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import detrcli
from detrcli.inference import EngineName
from detrcli.inference.tiles import OVERLAP

DATA = "Dataset: a folder in a known layout, its data.yaml or annotation file, or `shapes`."


def option(metavar: str, help: str, *names: str, **more: Any) -> Any:
    """Declare an option with a value."""
    return typer.Option(*names, metavar=metavar, help=help, **more)


def flag(name: str, help: str) -> Any:
    """Declare an option without a value."""
    return typer.Option(name, help=help)


def known_weights(value: Any) -> Any:
    """Check the names of weights before torch is imported and data is read, which takes longer."""
    from detrcli.checkpoints.registry import check_weights

    for name in value if isinstance(value, list) else [value]:
        check_weights(name)
    return value


def check_available(
    weights: str, load: "detrcli.LoadOptions | None" = None, data: "detrcli.DataOptions | None" = None
) -> None:
    """Check that weights are on this machine or can be downloaded, before torch is imported.

    Missing data is an error of the command itself, which comes first.
    """
    from detrcli.checkpoints.sources import check_available

    if data is not None:
        named = data.data is not None or any(any(pair) for pair in data.files.values())
        if not named or not all(os.path.lexists(path) for path in data.folders):
            return
    check_available(weights, None if load is None else load.sha256)


DataArgument = Annotated[Path | None, typer.Argument(help=DATA)]
WEIGHTS = "A name from `detr models`, a file, a run or Hugging Face folder, hf:OWNER/NAME, or a URL."
WeightsArgument = Annotated[str, typer.Argument(metavar="WEIGHTS", callback=known_weights, help=WEIGHTS)]
SeveralWeights = Annotated[
    list[str], option("W", f"{WEIGHTS} Repeat it to compare models.", "--weights", callback=known_weights)
]
Json = Annotated[bool, flag("--json", "Print a JSON document instead of a table.")]
Overwrite = Annotated[bool, flag("--overwrite", "Replace existing output files.")]
Device = Annotated[str, option("D", "Device: auto, cpu, cuda, cuda:N (or N) or mps.")]
Split = Annotated[str, option("NAME", "Split: train, val or test.")]
Threshold = Annotated[float, option("P", "Minimum score of a detection.", min=0, max=1)]
Seed = Annotated[int, option("N", "Random seed.", min=0, max=2**63 - 1)]
Exif = Annotated[
    Literal["auto", "apply", "ignore"],
    typer.Option(help="Whether to apply EXIF orientation; auto follows the annotated image size."),
]
MatchClassesById = Annotated[
    bool, flag("--match-classes-by-id", "If no class names are equal in weights and data, match equal ids.")
]
SkipBad = Annotated[bool, flag("--skip-bad", "Leave out broken images and annotations, with a warning.")]

# By field of LoadOptions.
_LOAD_OPTIONS: dict[str, Any] = {
    "weights": Annotated[str, option("W", WEIGHTS, callback=known_weights)],
    "text": Annotated[
        str | None, option("PHRASES", 'What to detect, as "a cat. a dog.", for models that take phrases.')
    ],
    "tiles": Annotated[
        str | None, option("N|WxH", "Predict N x N tiles of each image too, or tiles of W x H pixels, and merge.")
    ],
    "overlap": Annotated[
        float | None, option("P", f"Overlap of neighboring tiles, as a fraction of the tile. [{OVERLAP}]")
    ],
    "nms": Annotated[
        float | None, option("IOU", "Remove detections whose IoU with a better detection of their class is higher.")
    ],
    "size": Annotated[int | None, option("N", "Shorter side of the input.", min=1)],
    "max_size": Annotated[int | None, option("N", "Longer side of the input.", min=1)],
    "model": Annotated[
        str | None, option("NAME", "Architecture of a .pth file, where its tensors do not determine it.")
    ],
    "sha256": Annotated[str | None, option("HEX", "Hash of weights from a URL.")],
    "device": Device,
    "precision": Annotated[
        Literal["fp32", "bf16", "fp16"] | None,
        typer.Option(help="Number format of the network. [fp32, or that of an exported model]"),
    ],
    "engine": Annotated[
        EngineName | None,
        typer.Option(help="How the network is computed. [auto: openvino for many images on a CPU, else fast]"),
    ],
}
_DEFAULTS = {"weights": "detr-r50", "device": "auto"}
LOAD = ("weights", "size", "max_size", "model", "sha256", "device")


Command = Callable[..., None]
_SHARED: dict[Command, tuple[Sequence[str], Sequence[str]]] = {}  # arguments of `options` by command


def options(*load: str, files: Sequence[str] = ()) -> Callable[[Command], Command]:
    """Replace the parameters `load` and `data` of a command by options for fields of LoadOptions and DataOptions.

    `load` are the fields, `files` the splits whose files may be given in place of DATA. Weights and text become the
    first options, the others stand before --overwrite and --json.
    """

    def mark(command: Command) -> Command:
        _SHARED[command] = load, files
        return command

    return mark


def add_command(app: typer.Typer, command: Command) -> None:
    """Add a command with its shared options and --debug, which `main` reads from the command line."""
    load, files = _SHARED.get(command, ((), ()))

    def run(debug: bool, **values: Any) -> None:
        if files:
            pairs = {split: (values.pop(f"{split}_ann"), values.pop(f"{split}_images")) for split in files}
            values["data"] = detrcli.DataOptions(values["data"], pairs, values.pop("exif"), values.pop("skip_bad"))
        if load:
            values["load"] = detrcli.LoadOptions(**{field: values.pop(field) for field in load})
        command(**values)

    added = {field: _keyword(field, _LOAD_OPTIONS[field], _DEFAULTS.get(field)) for field in load}
    first = [added.pop(field) for field in ("weights", "text") if {"weights", field} <= set(load)]
    last: list[inspect.Parameter] = []
    for split in files:
        ann = option("FILE", f"COCO annotations of {split}, in place of DATA.")
        images = option("DIR", f"Folder of the images of {split}.", file_okay=False)
        last += [_keyword(f"{split}_ann", Annotated[Path | None, ann])]
        last += [_keyword(f"{split}_images", Annotated[Path | None, images])]
    if files:
        last += [_keyword("exif", Exif, "auto"), _keyword("skip_bad", SkipBad, False)]
    last += added.values()
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.kind == inspect.Parameter.KEYWORD_ONLY:
            parameters += first
            first = []
        if parameter.name in ("overwrite", "json"):
            parameters += last
            last = []
        if parameter.name == "data" and files:
            parameter = parameter.replace(annotation=DataArgument, default=None)
        if parameter.name != "load":
            parameters.append(parameter)
    parameters += last
    parameters.append(_keyword("debug", Annotated[bool, flag("--debug", "Show the traceback of an error.")], False))
    functools.update_wrapper(run, command)
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by typer
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(command.__name__.rstrip("_").replace("_", "-"))(run)


def _keyword(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
