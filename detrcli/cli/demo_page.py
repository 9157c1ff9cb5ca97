"""The page that `detr demo` leaves: each command above what it gave."""

import shlex
from pathlib import Path
from typing import Any

from detrcli.data.images import open_image
from detrcli.render.draw import grid_figure
from detrcli.render.page import Section
from detrcli.render.page import write_page as write_sections

PAGE = "index.html"
MODEL = "dino-tiny"  # that the shipped weights are, and that learns from nothing beside them
# In the demo's folder.
KNOWN, MASKS, DATA, RUN, SCRATCH, FOUND = "known", "masks", "unseen", "tuned", "from-nothing", "found"
ATTENTION, MATCHING, QUERIES, REPORT = "attention.png", "matching.png", "queries.png", "report"


def write_page(
    out: Path,
    commands: list[tuple[str, ...]],
    shipped: dict[str, Any],
    before: dict[str, Any],
    trained: dict[str, dict[str, Any]],
    walk: dict[str, Any],
    report: dict[str, Any],
    seconds: float,
) -> None:
    """Write it into that folder, from the commands and the documents that they printed."""
    (
        evaluated, made_known, masked, made, shown, evaluated_before, from_nothing, evaluated_nothing, tuned,
        evaluated_tuned, predicted, explained, looked, matched, matched_all, reported,
    ) = (f"detr {shlex.join(command)}" for command in commands)  # fmt: skip
    numbers = ("AP", "AP50", "AP75")

    def row(name: str, answer: dict[str, Any], of: str = "metrics") -> tuple[str | float, ...]:
        return (name, *(answer[of][number] for number in numbers))

    found, masks = (
        [(open_image(path).image, path.name) for path in sorted((out / folder).iterdir())] for folder in (FOUND, MASKS)
    )
    write_sections(
        out / PAGE,
        "The whole round of a detection transformer",
        f"All that is on this page was made in {seconds / 60:.1f} minutes by `detr demo`, from weights that come "
        "with the package and pictures drawn on the spot. The commands stand above what they gave; in this folder "
        "they give it again, by hand.",
        [
            Section(
                "A detector that is there",
                "The `shapes` weights: a small DINO of 1.3 million parameters, trained from scratch on circles, "
                "squares, triangles, stars and crosses. With a mask head on it they are the `shapes-masks` weights, "
                "which find the same boxes, and the pixels of each object.",
                f"{evaluated}\n{made_known}\n{masked}",
                ("shapes", *numbers),
                [row("boxes", shipped), row("masks", shipped, "masks")],
                pictures=[(grid_figure(masks), "Masks of shapes that it knows")],
            ),
            Section(
                "Data that it has never seen",
                "Other shapes, in a folder like your own data would be.",
                f"{made}\n{shown}",
                pictures=[(open_image(out / f"{DATA}.png").image, "Some of its pictures with their truth")],
            ),
            Section(
                "What it makes of them at first",
                "It knows none of these classes. Classes are paired by id (--match-classes-by-id), so it is wrong.",
                evaluated_before,
                ("data", *numbers),
                [row("before", before)],
            ),
            Section(
                "Learning, from nothing and from what is there",
                "The same model twice, for as many epochs: once with random weights, and once with the class head "
                "alone anew, where all else has seen shapes before.",
                f"{from_nothing}\n{tuned}",
                pictures=[
                    (open_image(out / SCRATCH / "curves.png").image, "From nothing, epoch by epoch"),
                    (open_image(out / RUN / "curves.png").image, "From the shipped weights, epoch by epoch"),
                ],
            ),
            Section(
                "What they make of them now",
                "The same pictures of the validation split, which training has not seen.",
                f"{evaluated_nothing}\n{evaluated_tuned}",
                ("data", *numbers),
                [
                    row("before", before),
                    row("from nothing", trained[SCRATCH]),
                    row("from the shipped weights", trained[RUN]),
                ],
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
                pictures=[
                    (open_image(out / ATTENTION).image, "Decoder cross-attention, last layer, mean of the heads")
                ],
            ),
            Section(
                "Which query answers for which object",
                "Training pairs every object with one query, so that all pairs together cost least.",
                matched,
                pictures=[
                    (open_image(out / MATCHING).image, "Truth joined to prediction, beside the costs that decided")
                ],
            ),
            Section(
                "What each query is for",
                "Over the whole validation split every query has its own places and sizes.",
                matched_all,
                pictures=[
                    (
                        open_image(out / QUERIES).image,
                        "A tile per query: centres of its boxes; below, the objects that cost most",
                    )
                ],
            ),
            Section(
                "What goes wrong, and why",
                f"Of {report['objects']['total']} objects {report['objects']['found']} are found. "
                "The page of the report says of each other one why it was missed, shows what was invented, which "
                "annotations look wrong, and opens every picture with its matching and attention.",
                reported,
                widget=f'<p><a href="{REPORT}/index.html">Open the report</a></p>',
            ),
        ],
    )
