"""Options that commands share, and what a run of the program knows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, cast

import typer


@dataclass
class Session:
    """What was asked of the program as a whole."""

    debug: bool = False


def _debug(context: typer.Context, value: bool) -> None:
    if value:
        cast("Session", context.find_root().obj).debug = True


DATA = "A folder in any known layout, its data.yaml or annotations, or `shapes`."
THRESHOLD = 0.7  # the score from which a query counts as a detection, where nothing else is asked for


def known_weights(value: str) -> str:
    """A mistyped name is told at once: torch takes seconds to import, and data may take minutes to check."""
    from detrcli.checkpoints.registry import check_weights

    check_weights(value)
    return value


def _with_phrases(value: str | None) -> str | None:
    if value is not None:
        from detrcli.checkpoints.phrases import phrases_of

        phrases_of(value)  # an error where there are none
    return value


Debug = Annotated[bool, typer.Option("--debug", callback=_debug, help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document in place of a table.")]
Weights = Annotated[
    str,
    typer.Option(
        "--weights",
        metavar="W",
        callback=known_weights,
        help="A name from `detr models`, a file, a run or Hugging Face folder, hf:OWNER/NAME, or a URL.",
    ),
]


def _all_known(values: list[str]) -> list[str]:
    return [known_weights(value) for value in values]


SeveralWeights = Annotated[
    list[str],
    typer.Option("--weights", metavar="W", callback=_all_known, help="As in `detr predict`; several are compared."),
]
Device = Annotated[str, typer.Option("--device", metavar="D", help="auto, cpu, cuda, cuda:N (or N) or mps.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]

Text = Annotated[
    str | None,
    typer.Option(
        "--text",
        metavar="PHRASES",
        callback=_with_phrases,
        help='What to look for, as "a cat. a dog.", with weights that take phrases.',
    ),
]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="What a .pth cannot tell (DC5): a name from `detr models`."),
]
Sha256 = Annotated[str | None, typer.Option("--sha256", metavar="HEX", help="Hash of weights given by URL.")]
Size = Annotated[int | None, typer.Option("--size", metavar="N", min=1, help="Shorter side of the input.")]
MaxSize = Annotated[int | None, typer.Option("--max-size", metavar="N", min=1, help="Longest side of the input.")]
Precision = Annotated[
    Literal["fp32", "bf16", "fp16"] | None,
    typer.Option("--precision", help="Numbers to compute in. [fp32, or that of an exported model]"),
]
Engine = Annotated[
    Literal["plain", "fast", "compiled", "openvino", "onnx"] | None,
    typer.Option("--engine", help="How the network is computed. [fast on a CPU, else plain]"),
]
Exif = Annotated[
    Literal["auto", "apply", "ignore"],
    typer.Option("--exif", help="Whether photographs are turned; auto takes what the annotated size says."),
]
PairById = Annotated[
    bool,
    typer.Option("--match-classes-by-id", help="Where no class has the same name in weights and data, pair equal ids."),
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out what is broken, with a warning.")]
TrainAnn = Annotated[Path | None, typer.Option("--train-ann", metavar="FILE", help="COCO annotations of train.")]
TrainImages = Annotated[Path | None, typer.Option("--train-images", metavar="DIR", help="Pictures of train.")]
ValAnn = Annotated[Path | None, typer.Option("--val-ann", metavar="FILE", help="COCO annotations of val.")]
ValImages = Annotated[Path | None, typer.Option("--val-images", metavar="DIR", help="Pictures of val.")]
