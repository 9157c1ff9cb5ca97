"""What `detr visualize-attn` shows: maps with their tiles, table, JSON and arrays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detrcli.cli.visualize_attn.looking import Head, Look, found_in, mark_of, named, of_heads, said_of
from detrcli.inspection.maps import box_coverage, brightest, cell_at
from detrcli.render.attention_figure import Matrix, Tile, attention_sheet, matrix_sheet
from detrcli.render.attention_page import Answer, write_attention_page

MOST_LOOKED_AT = 5  # queries that are named

Row = tuple[str | float | None, ...]


@dataclass(frozen=True)
class Shown:
    """One kind of attention, in all the ways it is told."""

    picture: Image.Image
    columns: Sequence[str]
    rows: Sequence[Row]
    document: dict[str, Any]
    arrays: dict[str, np.ndarray]
    remarks: Sequence[str] = ()


def of_queries(look: Look, queries: Sequence[int], layers: Sequence[int], heads: Sequence[Head]) -> Shown:
    """The decoder's cross-attention."""
    maps = np.stack(
        [of_heads(look.recording.cross(layer, queries)[0], heads, 1) for layer in layers]
    )  # (L, n, heads, h, w)
    tiles, told = [], []
    rows: list[Row] = []
    for i, query in enumerate(queries):
        entry = said_of(look, -1, query)
        entry["maps"] = []
        for place, layer, head in _each(layers, heads):
            map_ = maps[place[0], i, place[1]]
            said = said_of(look, layer, query)
            fact = {"layer": layer, "head": _head(head), **fact_of(map_, look.image, said["box"])}
            if len(layers) > 1:  # what the layer itself says
                fact |= {key: said[key] for key in ("label", "score", "nothing", "box")}
            entry["maps"].append(fact)
            rows.append(
                (query, named(said), f"{said['score']:.3f}", layer, str(_head(head)), *numbers_of(fact))
            )
            caption = [*_place(layer, layers, head, heads), f"query {query}: {found_in(said)}"]
            tiles.append(Tile(", ".join(caption), map_, [mark_of(look, layer, query)]))
        told.append(entry)
    kind = f"where queries look (decoder cross-attention), {_which(layers, heads)}; {colours_of(look)}"
    across = len(heads) if len(heads) > 1 else len(layers) if len(layers) > 1 else None
    found = look.found
    return Shown(
        picture=attention_sheet(look.image, f"{look.file.name}: {kind}", tiles, across),
        columns=("query", "label", "score", "layer", "head", "most at", "in a cell", "in its box"),
        rows=rows,
        document={"kind": "decoder", "queries": told},
        arrays={
            "cross": maps,
            "queries": np.array(queries),
            "boxes": found.boxes[queries],
            "scores": found.scores[queries],
            "labels": found.labels[queries],
        },
    )


def of_points(
    look: Look, points: Sequence[tuple[float, float]], layers: Sequence[int], heads: Sequence[Head]
) -> Shown:
    """The encoder's self-attention at places of the picture."""
    width, height = look.image.size
    cells = [cell_at(x / width, y / height, look.recording.cells) for x, y in points]
    maps = np.stack(
        [of_heads(look.recording.encoder(layer, cells)[0], heads, 1) for layer in layers]
    )  # (L, n, heads, h, w)
    tiles = [Tile("the picture", points=[(x, y, str(i)) for i, (x, y) in enumerate(points)])]
    told = []
    rows: list[Row] = []
    for i, (x, y) in enumerate(points):
        facts = []
        for place, layer, head in _each(layers, heads):
            map_ = maps[place[0], i, place[1]]
            fact = {"layer": layer, "head": _head(head), **fact_of(map_, look.image)}
            facts.append(fact)
            rows.append((f"{x:g},{y:g}", layer, str(_head(head)), *numbers_of(fact)))
            caption = [*_place(layer, layers, head, heads), f"point {i}: {x:g},{y:g}"]
            tiles.append(Tile(", ".join(caption), map_, points=[(x, y, str(i))]))
        told.append({"point": [x, y], "cell": cells[i], "maps": facts})
    kind = f"where places look (encoder self-attention), {_which(layers, heads)}; {colours_of(look)}"
    return Shown(
        picture=attention_sheet(look.image, f"{look.file.name}: {kind}", tiles),
        columns=("point", "layer", "head", "most at", "in a cell"),
        rows=rows,
        document={"kind": "encoder", "points": told},
        arrays={"encoder": maps, "points": np.array(points, dtype=np.float32)},
    )


def of_query_pairs(look: Look, queries: Sequence[int], layers: Sequence[int], heads: Sequence[Head]) -> Shown:
    """The decoder's self-attention."""
    whole = np.stack(
        [of_heads(look.recording.among_queries(layer)[0], heads, 0) for layer in layers]
    )  # (L, heads, Q, Q)
    names = [mark_of(look, -1, query).name for query in queries]
    matrices, facts, remarks = [], [], []
    rows: list[Row] = []
    for place, layer, head in _each(layers, heads):
        values = whole[place][queries]  # (n, Q)
        among = values[:, queries]
        heading = list(map(str, queries))
        if len(queries) < values.shape[1]:  # the others, together
            among = np.hstack([among, np.maximum(0, 1 - among.sum(1, keepdims=True))])
            heading.append("rest")
        caption = ", ".join([f"layer {layer}", *([f"head {head}"] if len(heads) > 1 else [])])
        alike = look.recording.queries_are_alike(layer)
        matrices.append(Matrix(caption + (" (without effect)" if alike else ""), among, names, heading))
        for query, shares in zip(queries, values, strict=True):
            most = [int(other) for other in np.argsort(-shares, kind="stable")[:MOST_LOOKED_AT]]
            fact = {"layer": layer, "head": _head(head), "query": query, "effect": not alike}
            facts.append(
                fact | {"at": [{"query": other, "share": round(float(shares[other]), 6)} for other in most]}
            )
            told = ", ".join(
                f"{'itself' if other == query else other} {100 * shares[other]:.0f}%" for other in most
            )
            rows.append((query, named(said_of(look, -1, query)), layer, str(_head(head)), told))
    for layer in layers:
        if look.recording.queries_are_alike(layer):
            remarks.append(
                f"Layer {layer}: all queries have the same to give there, so who looks at whom has no effect."
            )
    kind = f"which query looks at which (decoder self-attention), {_which(layers, heads)}, in percent"
    return Shown(
        picture=matrix_sheet(f"{look.file.name}: {kind}; those who look stand at the side", matrices),
        columns=("query", "label", "layer", "head", "looks most at queries"),
        rows=rows,
        document={"kind": "self", "pairs": facts},
        arrays={"self": whole, "queries": np.array(queries)},
        remarks=remarks,
    )


def write_html(path: Path, look: Look, queries: Sequence[int]) -> None:
    """A page with the cross-attention of queries in all layers and heads."""
    heads: list[Head] = [None, *range(look.recording.heads)]
    maps = [of_heads(look.recording.cross(layer, queries)[0], heads, 1) for layer in range(len(look.layers))]
    answers = []
    for query in queries:
        said = [said_of(look, layer, query) for layer in range(len(look.layers))]
        answers.append(
            [Answer(f"{named(one)} {one['score']:.2f}", one["category_id"], one["box"]) for one in said]
        )
    write_attention_page(path, look.file.name, look.image, queries, answers, np.stack(maps))


def fact_of(map_: np.ndarray, image: Image.Image, box: Sequence[float] | None = None) -> dict[str, Any]:
    """Where a map is brightest, how much of the weight that cell has, and how much the box."""
    x, y = brightest(map_)
    fact: dict[str, Any] = {
        "brightest": [round(x * image.width, 1), round(y * image.height, 1)],
        "most": round(float(map_.max()), 6),
    }
    if box is not None:
        covered = box_coverage(np.array(box) / [*image.size, *image.size], map_.shape)  # (h, w)
        fact["in_box"] = round(float((map_ * covered).sum()), 6)
    return fact


def numbers_of(fact: dict[str, Any]) -> list[str]:
    """A fact for a table."""
    x, y = fact["brightest"]
    inside = [f"{100 * fact['in_box']:.0f}%"] if "in_box" in fact else []
    return [f"{x:.0f},{y:.0f}", f"{100 * fact['most']:.1f}%", *inside]


def _each(layers: Sequence[int], heads: Sequence[Head]) -> Iterator[tuple[tuple[int, int], int, Head]]:
    """Every layer and head, after their places."""
    for i, layer in enumerate(layers):
        for j, head in enumerate(heads):
            yield (i, j), layer, head


def _place(layer: int, layers: Sequence[int], head: Head, heads: Sequence[Head]) -> list[str]:
    """Which layer and head, where there are several."""
    of_layer = [f"layer {layer}"] if len(layers) > 1 else []
    return [*of_layer, f"head {head}"] if len(heads) > 1 else of_layer


def _head(head: Head) -> str | int:
    return "mean" if head is None else head


def _which(layers: Sequence[int], heads: Sequence[Head]) -> str:
    layer = f"layer {layers[0]}" if len(layers) == 1 else "all layers"
    head = "mean of the heads" if heads[0] is None else f"head {heads[0]}" if len(heads) == 1 else "each head"
    return f"{layer}, {head}"


def colours_of(look: Look) -> str:
    """What the colours of a map mean."""
    h, w = look.recording.cells
    return f"colours: share of the attention on a cell, of {w} x {h}"
