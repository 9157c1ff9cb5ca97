"""`detr demo`: the whole round on built-in data, each step of it a command that can be repeated by hand."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from detrcli.cli.options import Debug, Device, Json

FOLDER = "demo"
DOCUMENT = "demo.json"  # in it: what --json prints
CLASSES = "ring,hexagon,arrow,ell,moon"  # shapes that the shipped weights were never shown
PICTURES = 300
# Of both trainings; else they follow the model's recipe, which would enlarge these pictures and take longer.
BRIEFLY = ("--epochs", "6", "--size", "128")
SHOWN = 8  # pictures in which it says what it finds


def demo(
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where everything goes, else demo/, numbered.")
    ] = None,
    device: Device = "auto",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Do the whole round on built-in data, in minutes."""
    import shlex
    from json import dumps as to_json

    from detrcli.cli.console import print_json, warn
    from detrcli.cli.demo_page import (
        ATTENTION,
        DATA,
        FOUND,
        KNOWN,
        MASKS,
        MATCHING,
        MODEL,
        PAGE,
        QUERIES,
        REPORT,
        RUN,
        SCRATCH,
        write_page,
    )
    from detrcli.cli.outputs import check_free
    from detrcli.cli.steps import Steps
    from detrcli.system.files import next_free_folder, write_whole

    if out is None:
        out = next_free_folder(FOLDER)
        warn(f"everything goes to {out}")
    else:
        check_free(out, folder=True)
        out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    steps = Steps(out, device, quiet=json)

    shipped = steps.ask("eval", "shapes", "--weights", "shapes-masks")
    steps.say(_in_words(shipped))
    steps.run("data", "make", "shapes", KNOWN, "--images", str(5 * SHOWN))
    steps.ask("predict", f"{KNOWN}/val", "--weights", "shapes-masks", "--threshold", "0.5", "--out", MASKS)
    steps.run("data", "make", "shapes", DATA, "--images", str(PICTURES), "--classes", CLASSES)
    steps.run("data", "show", DATA, "--out", f"{DATA}.png")
    before = steps.ask("eval", DATA, "--weights", "shapes", "--match-classes-by-id")
    steps.say(_in_words(before))
    trained = {}
    for run, start in ((SCRATCH, ("--model", MODEL, "--weights", "none")), (RUN, ("--weights", "shapes"))):
        training = steps.ask("train", DATA, *start, *BRIEFLY, "--out", run, "--no-report")
        steps.say(f"{training['epochs']} epochs in {training['seconds']:.0f} s")
        trained[run] = steps.ask("eval", DATA, "--weights", run)
        steps.say(_in_words(trained[run]))
    pictures = [f"{DATA}/val/{name}" for name in _some_pictures(out / DATA / "val")]
    found = steps.ask("predict", *pictures, "--weights", RUN, "--threshold", "0.5", "--out", FOUND)
    richest: str = max(found["images"], key=lambda image: len(image["detections"]))["file"]
    walk = steps.ask("explain", richest, "--weights", RUN)
    steps.ask("visualize-attn", richest, "--weights", RUN, "--threshold", "0.5", "--out", ATTENTION)
    steps.ask("match-debug", DATA, "--image", Path(richest).name, "--weights", RUN, "--out", MATCHING)
    steps.ask("match-debug", DATA, "--all", "--weights", RUN, "--out", QUERIES)
    report = steps.ask("report", RUN, "--out", REPORT)

    seconds = time.perf_counter() - began
    write_page(out, steps.commands, shipped, before, trained, walk, report, seconds)
    document = {
        "schema": "detr.demo/1",
        "folder": str(out),
        "page": str(out / PAGE),
        "commands": [f"detr {shlex.join(command)}" for command in steps.commands],
        "shapes": shipped["metrics"],
        "shapes_masks": shipped["masks"],
        "before": before["metrics"],
        "from_nothing": trained[SCRATCH]["metrics"],
        "after": trained[RUN]["metrics"],
        "seconds": round(seconds, 1),
    }
    write_whole(out / DOCUMENT, (to_json(document) + "\n").encode())
    if json:
        print_json(document)
    else:
        print(f"\nDone in {seconds / 60:.1f} minutes. What happened, to look at: {out / PAGE}")


def _some_pictures(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())[:SHOWN]


def _in_words(answer: dict[str, Any]) -> str:
    metrics = answer["metrics"]
    return f"AP {metrics['AP']:.3f}, AP50 {metrics['AP50']:.3f} on {answer['images']} pictures"
