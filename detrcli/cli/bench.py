"""`detr bench`: the speed of engines on this machine."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from detrcli import api
from detrcli.cli.console import STDERR, print_result
from detrcli.cli.options import LOAD, Json, WeightsArgument, load_options, option


@load_options(*LOAD[1:])
def bench(
    weights: WeightsArgument = "detr-r50",
    *,
    image: Annotated[Path | None, option("FILE", "The image. [a generated one of 640 x 480]")] = None,
    rounds: Annotated[int, option("N", "Rounds, of which the median is reported.", min=1)] = 5,
    load: "api.LoadOptions",
    json: Json = False,
) -> None:
    """Compare the speed of engines and precisions."""
    print_result(api.bench(replace(load, weights=weights), image, rounds=rounds, reporter=STDERR), json=json)
