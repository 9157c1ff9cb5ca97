"""Raw attention beside relevance, and which of the two can be believed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detrcli.cli.console import Status
from detrcli.cli.visualize_attn.attention import Row, Shown, colours_of, fact_of, numbers_of
from detrcli.cli.visualize_attn.looking import Head, Look, mark_of, named, of_heads, said_of
from detrcli.data.masks import Mask, masks_of
from detrcli.inference.detector import exact_float32
from detrcli.inspection.faithfulness import RANDOM, SHARES, Curves, curves, mean, random_maps
from detrcli.inspection.maps import iou, mask_coverage
from detrcli.inspection.relevance import relevance
from detrcli.render.attention_figure import Tile, attention_sheet, stacked
from detrcli.render.plot import Panel, plot
from detrcli.system.text import key

SAME = 0.5  # IoU from which on a query's box and a mask mean the same object


def compared(
    look: Look, queries: Sequence[int], layer: int, head: Head, *, measured: bool, masks: Path | None
) -> Shown:
    """Attention of a layer and relevance through all of them, query by query; measured by hiding where asked."""
    image = look.image
    known = [] if masks is None else masks_of(masks, look.file.name, image.height, image.width)
    model, pixels = look.recording.model, look.pixels
    with exact_float32():
        attention = of_heads(look.recording.cross(layer, queries)[0], [head], 1)[:, 0]  # (n, h, w)
        relevant = relevance(model, pixels, queries).cpu().numpy()  # (n, h, w)

    tiles, told, panels = [], [], []
    rows: list[Row] = []
    with Status("hiding cells", len(queries), quiet=not measured) as status:
        for i, query in enumerate(queries):
            said = said_of(look, -1, query)
            maps = {"attention": attention[i], "relevance": relevant[i]}
            mask = _mask_of(known, said)
            found: dict[str, Curves] = {}
            if measured:
                with exact_float32():
                    chance = random_maps(look.recording.cells, RANDOM)
                    first, second, *others = curves(model, pixels, query, [*maps.values(), *chance])
                found = {"attention": first, "relevance": second, "random": mean(others)}
                panels += _panels(query, found)
            entry: dict[str, Any] = {**said, "maps": {}}
            for name, map_ in maps.items():
                fact = fact_of(map_, image, said["box"])
                if masks is not None:
                    inside = (
                        None if mask is None else float((map_ * mask_coverage(mask.pixels, map_.shape)).sum())
                    )
                    fact["in_mask"] = None if inside is None else round(inside, 6)
                entry["maps"][name] = fact
                tiles.append(Tile(f"query {query}: {named(said)}, {name}", map_, [mark_of(look, -1, query)]))
            for name, one in found.items():
                entry["maps"].setdefault(name, {})
                entry["maps"][name] |= {
                    "deletion_area": round(one.deletion_area, 6),
                    "insertion_area": round(one.insertion_area, 6),
                    "deletion": one.deletion.round(6).tolist(),
                    "insertion": one.insertion.round(6).tolist(),
                }
            for name, fact in entry["maps"].items():
                rows.append((query, named(said), f"{said['score']:.3f}", name, *_row(fact, measured, masks)))
            told.append(entry)
            status.advance()

    title = f"{look.file.name}: attention of layer {layer} beside relevance through all layers; {colours_of(look)}"
    picture = attention_sheet(image, title, tiles, 2 if len(queries) <= 3 else 4)
    if panels:
        picture = stacked([picture, plot(panels)])
    columns = ["query", "label", "score", "map", "most at", "in a cell", "in its box"]
    columns += ["in its mask"] if masks is not None else []
    columns += ["deletion", "insertion"] if measured else []
    return Shown(
        picture=picture,
        columns=columns,
        rows=rows,
        document={
            "kind": "relevance",
            "queries": told,
            **({"shares_hidden": SHARES.round(6).tolist()} if measured else {}),
        },
        arrays={
            "cross": attention[None, :, None],
            "relevance": relevant,
            "queries": np.array(queries),
            "boxes": look.found.boxes[queries],
            "scores": look.found.scores[queries],
            "labels": look.found.labels[queries],
        },
        remarks=_remarks(told) if measured else [],
    )


def _mask_of(masks: Sequence[Mask], said: dict[str, Any]) -> Mask | None:
    """The object that a query found: of its class, and where its box is, as far as that is in the picture."""
    same = [mask for mask in masks if key(mask.label) == key(said["label"])]
    fits = [iou(mask.box, np.clip(said["box"], 0, [*mask.pixels.shape[::-1]] * 2)) for mask in same]
    return same[int(np.argmax(fits))] if max(fits, default=0) >= SAME else None


def _row(fact: dict[str, Any], measured: bool, masks: Path | None) -> list[str]:
    row = numbers_of(fact) if "most" in fact else ["", "", ""]
    if masks is not None:
        inside = fact.get("in_mask")
        row.append("" if inside is None else f"{100 * inside:.0f}%")
    if measured:
        row += [f"{fact['deletion_area']:.3f}", f"{fact['insertion_area']:.3f}"]
    return row


def _panels(query: int, found: dict[str, Curves]) -> list[Panel]:
    """The score as cells go, and as they come."""

    def points(scores: np.ndarray) -> list[tuple[float, float]]:
        return list(zip((100 * SHARES).tolist(), scores.tolist(), strict=True))

    ways = {
        "deletion": {name: points(one.deletion) for name, one in found.items()},
        "insertion": {name: points(one.insertion) for name, one in found.items()},
    }
    return [
        Panel(f"query {query}: {way}", "% of the picture", drawn, least=0, most=1)
        for way, drawn in ways.items()
    ]


def _remarks(told: Sequence[dict[str, Any]]) -> list[str]:
    """Who is right how often."""

    def wins(area: str, sign: int) -> int:
        return sum(
            sign * entry["maps"]["relevance"][area] > sign * entry["maps"]["attention"][area]
            for entry in told
        )

    return [
        "Deletion is the area under the score as the map's cells go: small is good. Insertion: as they come, "
        "large is good.",
        f"Relevance beats attention for {wins('deletion_area', -1)} of {len(told)} by deletion, "
        f"for {wins('insertion_area', 1)} by insertion.",
    ]
