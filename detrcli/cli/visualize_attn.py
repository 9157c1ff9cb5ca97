"""`detr visualize-attn`: where each object query looks."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detrcli.cli.inputs import options_named, places, the_picture
from detrcli.cli.options import THRESHOLD, Debug, Device, Json, MaxSize, Model, Overwrite, Sha256, Size, Text, Weights
from detrcli.errors import UsageError
from detrcli.system.text import escape_controls

if TYPE_CHECKING:
    from detrcli.inspection.look import Kind

DEFAULT_OUT = "attention.png"


def visualize_attn(
    image: Annotated[Path, typer.Argument(help="A picture.")],
    query: Annotated[list[int] | None, typer.Option(metavar="N", help="From 0; may be repeated.")] = None,
    layer: Annotated[str, typer.Option(metavar="last|all|I", help="Which layer, from 0.")] = "last",
    head: Annotated[str, typer.Option(metavar="mean|all|I", help="Attention head, from 0.")] = "mean",
    threshold: Annotated[
        float, typer.Option(metavar="P", min=0, max=1, help="Least score of queries, if none is given.")
    ] = THRESHOLD,
    encoder: Annotated[
        list[str] | None, typer.Option(metavar="X,Y", help="Where the encoder looks from this pixel; may be repeated.")
    ] = None,
    self_: Annotated[bool, typer.Option("--self", help="Which queries look at which in the decoder.")] = False,
    mask_head: Annotated[
        bool, typer.Option("--mask-head", help="Which cells the mask head goes by, and the masks.")
    ] = False,
    relevance: Annotated[
        bool, typer.Option("--relevance", help="Gradient-weighted relevance beside raw attention.")
    ] = False,
    faithfulness: Annotated[
        bool, typer.Option("--faithfulness", help="Measure which of the two to believe, by hiding parts (slow).")
    ] = False,
    masks: Annotated[
        Path | None, typer.Option(metavar="FILE", help="COCO annotations whose masks --faithfulness compares with.")
    ] = None,
    raw: Annotated[Path | None, typer.Option(metavar="FILE.npz", help="Write the maps as arrays.")] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page to move through queries, layers and heads.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The picture to write, else attention.png, numbered.")
    ] = None,
    weights: Weights = "detr-r50",
    text: Text = None,
    size: Size = None,
    max_size: MaxSize = None,
    model: Model = None,
    sha256: Sha256 = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Draw where queries look in a picture."""
    from detrcli.cli.outputs import PICTURES, check_ending, check_free, check_not_inputs

    asked = {"--encoder": encoder, "--self": self_, "--mask-head": mask_head, "--relevance": relevance or faithfulness}
    if len(several := [name for name, value in asked.items() if value]) > 1:
        raise UsageError(f"{' and '.join(several)} are different sheets: one at a time.")
    if encoder and query:
        raise UsageError("--encoder shows places, --query queries: one at a time.")
    if masks is not None and not faithfulness:
        raise UsageError("--masks goes with --faithfulness.")
    if (relevance or faithfulness) and "all" in (layer, head):
        raise UsageError("Relevance is compared with one layer and one head, or their mean: not with all.")
    if html is not None and encoder:
        raise UsageError("--html shows queries, --encoder places: one at a time.")
    endings = ((out, PICTURES), (raw, (".npz",)), (html, (".html", ".htm")))
    outputs = [given for given, _ in endings if given is not None]
    if len(set(outputs)) < len(outputs):
        raise UsageError("--out, --raw and --html are different files.")
    for path in outputs:
        check_free(path, overwrite=overwrite)
    check_not_inputs(outputs, [path for path in (image, Path(weights), masks) if path])
    for given, allowed in endings:
        if given is not None:
            check_ending(given, *allowed)

    from detrcli.api.inspecting import look
    from detrcli.cli.console import Status, print_json, print_table, warn
    from detrcli.cli.loading import load_detector
    from detrcli.cli.outputs import next_free_file
    from detrcli.render.draw import save
    from detrcli.system.files import write_arrays

    picture = the_picture(image)
    for note in picture.notes:
        warn(f"{image}: {note}")
    points = places(encoder or [], *picture.image.size)  # before anything is fetched
    detector = load_detector(
        weights, model=model, sha256=sha256, size=size, max_size=max_size, device=device, text=text
    )
    kinds: dict[Kind, bool] = {
        "encoder": bool(points),
        "self": self_,
        "mask": mask_head,
        "faithfulness": faithfulness,  # which shows relevance too
        "relevance": relevance,
    }
    kind: Kind = next((name for name, given in kinds.items() if given), "cross")
    with options_named(), Status("hiding cells", quiet=not faithfulness) as status:
        found = look(
            image,
            detector,
            queries=query,
            threshold=threshold,
            layers=layer,
            heads=head,
            kind=kind,
            points=points,
            masks=masks,
            advance=status.advance,
        )
    if out is None:
        out = next_free_file(DEFAULT_OUT)
        warn(f"the picture goes to {out}")
    save(found.figure, out)
    if raw is not None:
        raw.parent.mkdir(parents=True, exist_ok=True)
        write_arrays(raw, found.arrays)
    if html is not None:
        found.page(html)
    if json:
        written = {name: None if path is None else str(path) for name, path in (("raw", raw), ("html", html))}
        print_json({**found.document, "file": str(image), "weights": weights, "out": str(out), **written})
        return
    print_table(found.table.columns, found.table.rows)
    for remark in found.remarks:
        print(escape_controls(remark))
