"""`detr data`: datasets checked, shown, made and fixed."""

from pathlib import Path
from typing import Annotated, Literal

import typer

import detrcli
from detrcli.cli import options as opt
from detrcli.cli.console import STDERR, print_result
from detrcli.cli.outputs import FIGURE, check_files, check_free, check_not_in_data

NewFolder = Annotated[Path, opt.option("NEW", "A new folder, in COCO layout.")]


@opt.options(files=("train", "val"))
def check(
    data: "detrcli.DataOptions",
    *,
    full: Annotated[bool, opt.flag("--full", "Decode all images and masks, however long it takes.")] = False,
    json: opt.Json = False,
) -> None:
    """Count the contents of a dataset, and list its problems."""
    checked = detrcli.check_data(data, full=full, reporter=STDERR)
    print_result(checked, json=json)
    checked.report.raise_errors()


def show(
    data: Annotated[Path, typer.Argument(help=opt.DATA)],
    out: Annotated[Path, opt.option("FILE", "The figure to write.")],
    split: opt.Split = "train",
    images: Annotated[int, opt.option("N", "Number of images.", min=1)] = 16,
    augmented: Annotated[bool, opt.flag("--augmented", "Augment the images as training does.")] = False,
    masks: Annotated[bool, opt.flag("--masks", "Draw masks instead of boxes.")] = False,
    size: Annotated[int, opt.option("N", "Shorter side of augmented images.", min=1)] = 800,
    seed: Annotated[int, opt.option("N", "Random seed of the choice and augmentation.", min=0, max=2**32 - 1)] = 0,
    overwrite: opt.Overwrite = False,
) -> None:
    """Draw images of a dataset with their ground truth."""
    check_files([(out, FIGURE)], overwrite=overwrite, data=detrcli.DataOptions(data))
    detrcli.show_data(
        data, out, split, images=images, augmented_size=size if augmented else None, masks=masks, seed=seed
    )


def make(
    what: Annotated[Literal["shapes"], typer.Argument(help="The dataset to make: shapes.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder, in COCO layout.")],
    images: Annotated[int, opt.option("N", "Images of train; val has a fifth as many.", min=1)] = 2000,
    size: Annotated[int, opt.option("S", "Width and height of images.", min=32, max=4096)] = 128,
    classes: Annotated[
        str, opt.option("A,B,...", "Of circle, ring, square, triangle, star, cross, hexagon, arrow, ell and moon.")
    ] = "circle,square,triangle,star,cross",
    objects: Annotated[int, opt.option("N", "Maximum number of objects per image.", min=1, max=50)] = 5,
    panoptic: Annotated[
        bool, opt.flag("--panoptic", "Draw sky, grass and sand as stuff, and write COCO panoptic files too.")
    ] = False,
    seed: opt.Seed = 0,
) -> None:
    """Make a dataset of colored shapes, always the same for a seed."""
    check_free(folder, folder=True)
    names = [name.strip() for name in classes.split(",")]
    detrcli.make_shapes(
        folder, images=images, size=size, classes=names, objects=objects, seed=seed, panoptic=panoptic, reporter=STDERR
    )
    if panoptic:
        file = folder / "annotations" / "panoptic_train.json"
        STDERR.note(f"the folder as DATA has only the shapes; with the stuff it is {file}")


def fix(
    data: Annotated[Path, typer.Argument(help=opt.DATA)],
    list_: Annotated[Path, opt.option("FILE", "Marks that were saved on the page of `detr report`.", "--list")],
    out: NewFolder,
) -> None:
    """Write a corrected copy of a dataset."""
    check_free(out, folder=True)
    check_not_in_data(out, detrcli.DataOptions(data))
    marks = detrcli.fix_data(data, list_, out, reporter=STDERR)
    changes, kept = len(marks.changes), len(marks.entries) - len(marks.changes)
    STDERR.note(f"{changes:,} changes in {marks.split}, {kept:,} marks without a change: {out}")
