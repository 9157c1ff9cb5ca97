"""The steps of `detr demo`, and the page that shows each command with its results."""

import time
from collections.abc import Mapping
from json import dumps
from pathlib import Path
from typing import Any

from detrcli.cli.steps import Steps
from detrcli.render.page import write_page
from detrcli.system.files import write_whole

PAGE, DOCUMENT = "index.html", "demo.json"  # the document is the output of --json
MODEL = "dino-tiny"  # the architecture of the shipped weights
CLASSES = "ring,hexagon,arrow,ell,moon"  # shapes that the shipped weights have not been trained on
IMAGES, SHOWN = 300, 8  # images to train on and to predict
# For both training runs. The model's recipe would enlarge the images and take longer.
QUICK = ("--epochs", "6", "--size", "128")
KNOWN, DATA, SCRATCH, TUNED = "known", "unseen", "from-scratch", "tuned"  # subfolders of the demo's folder
METRICS = ("AP", "AP50", "AP75")


def _row(name: str, evaluation: Mapping[str, Any], key: str = "metrics") -> tuple[str | float, ...]:
    return (name, *(evaluation[key][metric] for metric in METRICS))


def run_tour(folder: Path, device: str, *, quiet: bool) -> dict[str, Any]:
    """Run all steps in a folder, and write the page. Return the document."""
    steps = Steps(folder, device, quiet=quiet)
    start = time.perf_counter()
    shipped = steps.evaluate("shapes", "--weights", "shapes-masks")
    steps.run("data", "make", "shapes", KNOWN, "--images", str(5 * SHOWN))
    options = (f"{KNOWN}/val", "--weights", "shapes-masks", "--threshold", "0.5", "--out", "masks")
    steps.run("predict", *options, json=True)
    steps.show(
        "The shipped weights",
        "`shapes`: a small DINO of 1.3 million parameters, trained from scratch on circles, squares, triangles, stars "
        "and crosses. `shapes-masks` adds a mask head, which predicts the pixels of each object.",
        ("masks", "Masks of known shapes"),
        columns=("shapes", *METRICS),
        rows=[_row("boxes", shipped), _row("masks", shipped, "masks")],
    )
    steps.run("data", "make", "shapes", DATA, "--images", str(IMAGES), "--classes", CLASSES)
    steps.run("data", "show", DATA, "--out", "unseen.png")
    text = "Other shapes, in a folder, as your own dataset would be."
    steps.show("A new dataset", text, ("unseen.png", "Images with their ground truth"))
    before = steps.evaluate(DATA, "--weights", "shapes", "--match-classes-by-id")
    steps.show(
        "Evaluation before training",
        "The weights know none of these classes. They are matched by id (--match-classes-by-id), so most are wrong.",
        columns=("data", *METRICS),
        rows=[_row("before", before)],
    )
    for run, weights in ((SCRATCH, ("--model", MODEL, "--weights", "none")), (TUNED, ("--weights", "shapes"))):
        training = steps.run("train", DATA, *weights, *QUICK, "--out", run, "--no-report", json=True)
        steps.say(f"  {training['epochs']} epochs in {training['seconds']:.0f} s")
    steps.show(
        "Training, from scratch and from the shipped weights",
        "The same model twice, for the same number of epochs: with random weights, and with only a new class head.",
        (f"{SCRATCH}/curves.png", "From scratch, by epoch"),
        (f"{TUNED}/curves.png", "From the shipped weights, by epoch"),
    )
    scratch, after = (steps.evaluate(DATA, "--weights", run) for run in (SCRATCH, TUNED))
    steps.show(
        "Evaluation after training",
        "On the validation split, which was not used for training.",
        columns=("data", *METRICS),
        rows=[_row("before", before), _row("from scratch", scratch), _row("from the shipped weights", after)],
    )
    _inspect(steps)
    seconds = time.perf_counter() - start
    write_page(
        steps.folder / PAGE,
        "A tour of a detection transformer",
        f"`detr demo` made this page in {seconds / 60:.1f} minutes, from the shipped weights and generated images. "
        "Each section shows the commands, which can be repeated in this folder, above their results.",
        steps.sections,
    )
    document = {
        "schema": "detr.demo/1",
        "folder": str(steps.folder),
        "page": str(steps.folder / PAGE),
        "commands": steps.commands,
        "shapes": shipped["metrics"],
        "shapes_masks": shipped["masks"],
        "before": before["metrics"],
        "from_nothing": scratch["metrics"],
        "after": after["metrics"],
        "seconds": round(seconds, 1),
    }
    write_whole(steps.folder / DOCUMENT, (dumps(document) + "\n").encode())
    return document


def _inspect(steps: Steps) -> None:
    """Predict, explain, and report on the fine-tuned model."""
    weights = ("--weights", TUNED)
    images = sorted(f"{DATA}/val/{path.name}" for path in (steps.folder / DATA / "val").iterdir())[:SHOWN]
    predictions = steps.run("predict", *images, *weights, "--threshold", "0.5", "--out", "predictions", json=True)
    text = "Boxes with class and score, for scores of at least 0.5."
    steps.show("Predictions", text, ("predictions", "The first images of the validation split"))
    example: str = max(predictions["images"], key=lambda image: len(image["detections"]))["file"]
    walk = steps.run("explain", example, *weights, json=True)
    steps.show(
        "The steps of the model",
        f"The output of each part of the model for {example}.",
        columns=("step", "shape", "meaning"),
        rows=[(step["step"], " x ".join(map(str, step["shape"])), step["what"]) for step in walk["steps"]],
    )
    steps.run("visualize-attn", example, *weights, "--threshold", "0.5", "--out", "attention.png", json=True)
    caption = "Decoder cross-attention, last layer, mean of the heads"
    steps.show("Attention", "Where each query with a detection looks in the image.", ("attention.png", caption))
    steps.run("match-debug", DATA, "--image", Path(example).name, *weights, "--out", "matching.png", json=True)
    text = "Training matches each object with one query, at the lowest total cost."
    steps.show("Matching", text, ("matching.png", "Ground truth joined to its predictions, beside the costs"))
    steps.run("match-debug", DATA, "--all", *weights, "--out", "queries.png", json=True)
    text = "Over the validation split, each query specializes in certain positions and sizes."
    caption = "A tile per query: the centers of its boxes; below, the objects with the largest losses"
    steps.show("The queries", text, ("queries.png", caption))
    report = steps.run("report", TUNED, "--out", "report", json=True)
    steps.show(
        "Failures",
        f"{report['objects']['found']} of {report['objects']['total']} objects are detected. The report shows why each "
        "other object was missed, the false positives, and annotations that look wrong, and opens each image with its "
        "matching and attention.",
        html='<p><a href="report/index.html">Open the report</a></p>',
    )
