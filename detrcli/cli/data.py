"""`detr data`: what is in a data set, what is wrong with it, what it looks like; and one made of shapes."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from detrcli.cli.options import DATA, Debug, Exif, Json, Overwrite, SkipBad, TrainAnn, TrainImages, ValAnn, ValImages

data_app = typer.Typer(rich_markup_mode=None, help="Look at a data set and check it.")


@data_app.command("check")
def check(
    data: Annotated[Path | None, typer.Argument(help=DATA)] = None,
    train_ann: TrainAnn = None,
    train_images: TrainImages = None,
    val_ann: ValAnn = None,
    val_images: ValImages = None,
    exif: Exif = "auto",
    full: Annotated[bool, typer.Option("--full", help="Decode every picture, however long it takes.")] = False,
    skip_bad: SkipBad = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what is in a data set and every problem of it."""
    from detrcli.api.checking import check_data
    from detrcli.cli.console import Status, print_json
    from detrcli.cli.dataset_report import document, show_report
    from detrcli.cli.sources import open_source

    source = open_source(data, {"train": (train_ann, train_images), "val": (val_ann, val_images)})
    with Status("looking at pictures") as status:
        found = check_data(source, exif=exif, full=full, skip_bad=skip_bad, advance=status.advance)
    if json:
        print_json(document(found, held_out=source.holds_out))
    else:
        show_report(found, held_out=source.holds_out)
    found.raise_errors()


@data_app.command("show")
def show(
    data: Annotated[Path, typer.Argument(help=DATA)],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The picture to write.")],
    split: Annotated[str, typer.Option(metavar="NAME", help="train, val or test.")] = "train",
    images: Annotated[int, typer.Option(metavar="N", min=1, help="How many pictures.")] = 16,
    augmented: Annotated[bool, typer.Option("--augmented", help="As training sees them.")] = False,
    masks: Annotated[bool, typer.Option("--masks", help="Masks in place of boxes.")] = False,
    size: Annotated[int, typer.Option(metavar="N", min=1, help="Shorter side of the augmented input.")] = 800,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, max=2**32 - 1, help="Which pictures, and how augmented.")
    ] = 0,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Draw a sheet of pictures with their truth."""
    from detrcli.cli.outputs import PICTURES, check_ending, check_free, check_not_in_data

    check_free(out, overwrite=overwrite)
    check_not_in_data(out, data)
    check_ending(out, *PICTURES)
    from detrcli.data.source import open_data
    from detrcli.render.data_figure import ground_truth_figure
    from detrcli.render.draw import save

    shown = size if augmented else None
    save(ground_truth_figure(open_data(data), split, images, seed, shown, masks=masks), out)


@data_app.command("make")
def make(
    what: Annotated[Literal["shapes"], typer.Argument(help="What to make: shapes.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder, in COCO layout.")],
    images: Annotated[int, typer.Option(metavar="N", min=1, help="Pictures of train; val gets a fifth.")] = 2000,
    size: Annotated[int, typer.Option(metavar="S", min=32, max=4096, help="Pixels of a side.")] = 128,
    classes: Annotated[
        str,
        typer.Option(
            metavar="A,B,...", help="Of circle, ring, square, triangle, star, cross, hexagon, arrow, ell, moon."
        ),
    ] = "circle,square,triangle,star,cross",
    objects: Annotated[int, typer.Option(metavar="N", min=1, max=50, help="At most so many in a picture.")] = 5,
    panoptic: Annotated[
        bool, typer.Option("--panoptic", help="Before sky, grass and sand, with COCO's panoptic files too.")
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", min=0, max=2**63 - 1)] = 0,
    debug: Debug = False,
) -> None:
    """Make a data set of coloured shapes, the same from the same seed."""
    from detrcli.api.opening import Callbacks
    from detrcli.cli.console import Status, warn
    from detrcli.cli.outputs import check_free
    from detrcli.data.make import make_shapes

    check_free(folder, folder=True)
    with Status("drawing shapes") as status:
        make_shapes(
            folder,
            images=images,
            size=size,
            classes=[name.strip() for name in classes.split(",")],
            objects=objects,
            seed=seed,
            panoptic=panoptic,
            reporter=Callbacks(warn, status.advance),
        )
    if panoptic:
        file = folder / "annotations" / "panoptic_train.json"
        warn(f"{folder} as DATA are the shapes alone; with the stuff behind them it is {file}")


@data_app.command("fix")
def fix(
    data: Annotated[Path, typer.Argument(help=DATA)],
    list_: Annotated[
        Path, typer.Option("--list", metavar="FILE", help="Marks, as the page of `detr report` saves them.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="NEW", help="A new folder, in COCO layout.")],
    debug: Debug = False,
) -> None:
    """Write a corrected copy of a data set; the original stays as it is."""
    from detrcli.cli.outputs import check_free, check_not_in_data

    check_free(out, folder=True)
    check_not_in_data(out, data)
    from detrcli.api.opening import Callbacks
    from detrcli.cli.console import Status, warn
    from detrcli.data.fix import read_fix_list, write_fixed
    from detrcli.data.source import open_data

    wanted = read_fix_list(list_)
    with Status("copying pictures") as status:
        write_fixed(open_data(data), wanted, out, Callbacks(warn, status.advance))
    warn(f"{len(wanted.changes):,} changes in {wanted.split}, {wanted.kept:,} marks that change nothing: {out}")
