"""`detr demo`: the whole round on built-in data, each step of it a command that can be repeated by hand."""

import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from detrcli.cli.options import Debug, Device, Json

FOLDER, PAGE = "demo", "index.html"
DATA, RUN, FOUND = "unseen", "tuned", "found"  # in that folder
ATTENTION, MATCHING, QUERIES = "attention.png", "matching.png", "queries.png"
CLASSES = "ring,hexagon,arrow,ell,moon"  # shapes that the shipped weights were never shown
PICTURES = 300
TRAINING = (
    "--epochs 15 --batch-size 8 --lr 5e-4 --set lr_backbone=5e-4 --set schedule=cosine --set augmentation=flip "
    "--set eval_every=5"
)
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
    from detrcli.cli.console import print_json, warn
    from detrcli.cli.outputs import check_free
    from detrcli.system.files import next_free_folder

    if out is None:
        out = next_free_folder(FOLDER)
        warn(f"everything goes to {out}")
    else:
        check_free(out, folder=True)
        out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    steps = _Steps(out, device, quiet=json)

    shipped = steps.ask("eval", "shapes", "--weights", "shapes")
    steps.say(_in_words(shipped))
    steps.run("data", "make", "shapes", DATA, "--images", str(PICTURES), "--classes", CLASSES)
    steps.run("data", "show", DATA, "--out", f"{DATA}.png")
    before = steps.ask("eval", DATA, "--weights", "shapes")
    steps.say(_in_words(before))
    training = steps.ask("train", DATA, "--weights", "shapes", *TRAINING.split(), "--out", RUN)
    steps.say(f"{training['epochs']} epochs in {training['seconds']:.0f} s")
    after = steps.ask("eval", DATA, "--weights", RUN)
    steps.say(_in_words(after))
    pictures = [f"{DATA}/val/{name}" for name in _some_pictures(out / DATA / "val")]
    found = steps.ask("predict", *pictures, "--weights", RUN, "--threshold", "0.5", "--out", FOUND)
    richest: str = max(found["images"], key=lambda image: len(image["detections"]))["file"]
    walk = steps.ask("explain", richest, "--weights", RUN)
    steps.ask("visualize-attn", richest, "--weights", RUN, "--threshold", "0.5", "--out", ATTENTION)
    steps.ask("match-debug", DATA, "--image", Path(richest).name, "--weights", RUN, "--out", MATCHING)
    steps.ask("match-debug", DATA, "--all", "--weights", RUN, "--out", QUERIES)

    seconds = time.perf_counter() - began
    _write(out, steps.commands, shipped, before, after, walk, seconds)
    if json:
        print_json(
            {
                "schema": "detr.demo/1",
                "folder": str(out),
                "page": str(out / PAGE),
                "commands": [f"detr {shlex.join(command)}" for command in steps.commands],
                "shapes": shipped["metrics"],
                "before": before["metrics"],
                "after": after["metrics"],
                "seconds": round(seconds, 1),
            }
        )
    else:
        print(f"\nDone in {seconds / 60:.1f} minutes. What happened, to look at: {out / PAGE}")


@dataclass
class _Steps:
    """Commands of this program, run in the demo's folder and remembered."""

    folder: Path
    device: str
    quiet: bool
    commands: list[tuple[str, ...]] = field(default_factory=list)

    def run(self, *command: str, also: tuple[str, ...] = ()) -> str:
        """What a command prints; its progress and its warnings appear as it says them."""
        from detrcli.cli.console import warn
        from detrcli.system.cache import cache_folder

        self.commands.append(command)
        self.say(f"$ detr {shlex.join(command)}", indent="")
        with subprocess.Popen(
            [sys.executable, "-P", "-m", "detrcli", *command, *also],
            cwd=self.folder,
            # Another folder to be in must not make it another cache.
            env={**os.environ, "DETR_CACHE": str(cache_folder().absolute())},
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                answer, _ = process.communicate()
            except (KeyboardInterrupt, SystemExit):
                # A terminal tells the step as well, a scheduler does not. It may take its time: training saves.
                process.terminate()
                process.wait()
                raise
        if process.returncode:
            warn(f"the demo ends here: detr {command[0]} left with exit code {process.returncode}")
            raise typer.Exit(process.returncode)
        return answer

    def ask(self, *command: str) -> dict[str, Any]:
        """The JSON document that a command prints."""
        import json

        answer: dict[str, Any] = json.loads(self.run(*command, also=("--device", self.device, "--json")))
        return answer

    def say(self, what: str, indent: str = "  ") -> None:
        """A line for people, in step with what the commands say on stderr."""
        if not self.quiet:
            print(f"{indent}{what}", flush=True)


def _some_pictures(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())[:SHOWN]


def _in_words(answer: dict[str, Any]) -> str:
    metrics = answer["metrics"]
    return f"AP {metrics['AP']:.3f}, AP50 {metrics['AP50']:.3f} on {answer['images']} pictures"


def _write(
    out: Path,
    commands: list[tuple[str, ...]],
    shipped: dict[str, Any],
    before: dict[str, Any],
    after: dict[str, Any],
    walk: dict[str, Any],
    seconds: float,
) -> None:
    from PIL import Image

    from detrcli.render.draw import grid_figure
    from detrcli.render.page import Section, write_page

    (
        evaluated, made, shown, evaluated_before, trained, evaluated_after,
        predicted, explained, looked, matched, matched_all,
    ) = (f"detr {shlex.join(command)}" for command in commands)  # fmt: skip
    numbers = ("AP", "AP50", "AP75")

    def row(name: str, answer: dict[str, Any]) -> tuple[str | float, ...]:
        return (name, *(answer["metrics"][number] for number in numbers))

    def picture(name: str) -> Image.Image:
        with Image.open(out / name) as image:
            return image.convert("RGB")

    found = [(picture(str(path.relative_to(out))), path.name) for path in sorted((out / FOUND).iterdir())]
    write_page(
        out / PAGE,
        "The whole round of a detection transformer",
        f"All that is on this page was made in {seconds / 60:.1f} minutes by `detr demo`, from weights that come "
        "with the package and pictures drawn on the spot. The commands stand above what they gave; in this folder "
        "they give it again, by hand.",
        [
            Section(
                "A detector that is there",
                "The `shapes` weights: a DETR of 1.7 million parameters, trained from scratch on circles, squares, "
                "triangles, stars and crosses.",
                evaluated,
                ("data", *numbers),
                [row("shapes", shipped)],
            ),
            Section(
                "Data that it has never seen",
                "Other shapes, in a folder like your own data would be.",
                f"{made}\n{shown}",
                pictures=[(picture(f"{DATA}.png"), "Some of its pictures with their truth")],
            ),
            Section(
                "What it makes of them at first",
                "It knows none of these classes. Their ids are all it has to go by, so it is wrong.",
                evaluated_before,
                ("data", *numbers),
                [row("before", before)],
            ),
            Section(
                "Fine-tuning",
                "The class head starts anew; all else has seen shapes before, and learns on.",
                trained,
                pictures=[(picture(f"{RUN}/curves.png"), "What training measured, epoch by epoch")],
            ),
            Section(
                "What it makes of them now",
                "The same pictures of the validation split, which training has not seen.",
                evaluated_after,
                ("data", *numbers),
                [row("before", before), row("after", after)],
            ),
            Section(
                "What it finds",
                "Boxes with class and score, where it is at least half sure.",
                predicted,
                pictures=[(grid_figure(found), "The first pictures of the validation split")],
            ),
            Section(
                "How it gets there",
                f"The way of {walk['file']} through the model: what comes out of each part.",
                explained,
                ("step", "shape", "what it is"),
                [(step["step"], " x ".join(map(str, step["shape"])), step["what"]) for step in walk["steps"]],
            ),
            Section(
                "Where it looks",
                "Each query that found something, and how it shares out its attention over the picture.",
                looked,
                pictures=[(picture(ATTENTION), "Decoder cross-attention, last layer, mean of the heads")],
            ),
            Section(
                "Which query answers for which object",
                "Training pairs every object with one query, so that all pairs together cost least.",
                matched,
                pictures=[(picture(MATCHING), "Truth joined to prediction, beside the costs that decided")],
            ),
            Section(
                "What each query is for",
                "Over the whole validation split every query has its own places and sizes.",
                matched_all,
                pictures=[
                    (
                        picture(QUERIES),
                        "A tile per query: centres of its boxes; below, the objects that cost most",
                    )
                ],
            ),
        ],
    )
