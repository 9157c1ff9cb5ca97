"""A page that walks a picture through a model, with what it made of that picture, for who sees one first."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from detrcli.inspection.attention import cross_attention, encoder_attention
from detrcli.inspection.look import PictureRecord
from detrcli.inspection.walk import Step
from detrcli.render.attention_figure import Tile, draw_tile, tiles_figure
from detrcli.render.colour import heat
from detrcli.render.draw import Mark, grid_figure
from detrcli.render.page import Section, write_page
from detrcli.render.viewer import shrunk

CHANNELS = 8  # of a feature map that are shown
SHOWN = 8  # queries in the table of answers
CELL = 300  # pixels of a tile


def write_explain_page(
    path: Path, record: PictureRecord, stops: Sequence[Step], maps: Mapping[str, np.ndarray], threshold: float
) -> None:
    """Write the page of one picture; `maps` are (C, h, w) of the stages that have cells, by their names."""
    write_page(
        path,
        f"How {record.detector.checkpoint.source} sees {record.name}",
        "From pixels to boxes, one step after the other. Every picture on this page was made while the model looked "
        "at this one; nothing is a sketch.",
        list(_sections(record, stops, maps, threshold)),
    )


def _sections(
    record: PictureRecord, stops: Sequence[Step], maps: Mapping[str, np.ndarray], threshold: float
) -> Iterator[Section]:
    height, width = record.size
    _, input_height, input_width = record.pixels.shape
    scores = record.last.scores
    best = int(scores.argmax())
    sure = np.flatnonzero(scores >= threshold)
    sure = sure[np.argsort(-scores[sure], kind="stable")]
    said = record.prediction(-1, best)
    numbers = iter(range(1, 20))

    def title(text: str) -> str:
        return f"{next(numbers)}. {text}"

    resized = (
        "which is the size that the model takes."
        if (input_height, input_width) == (height, width)
        else f"and is resized to {input_width} x {input_height}, as the model was trained to see pictures."
    )
    yield Section(
        title("A picture is numbers"),
        f"Red, green and blue for each of {width} x {height} pixels: {3 * width * height:,} numbers. Nothing in them "
        f"says where an object is. The picture has {width} x {height} pixels, {resized}",
        pictures=[(shrunk(record.image), record.name)],
    )
    what = {stop.name: stop.what for stop in stops}
    for i, (name, map_) in enumerate(maps.items()):
        channels, rows, columns = map_.shape
        first = (
            "Convolutions look at small neighbourhoods, again and again, and sum up what they find. The picture is "
            f"now {columns} x {rows} cells, each about {input_width / columns:.0f} pixels wide, with {channels:,} "
            "numbers. A number answers a question that the model made up for itself in training: is there an edge, "
            "this colour, a corner? Bright is yes. None of the answers knows of an object yet."
        )
        yield Section(
            title(f"Coarse maps: {name}"),
            first if i == 0 else f"{what.get(name, name).capitalize()}.",
            pictures=[
                (_channels(map_), f"{min(CHANNELS, channels)} of {channels:,}, which differ most from cell to cell")
            ],
        )
    if "encoder attention" in record.inspectable.abilities and record.inspectable.encoder_layers:
        x0, y0, x1, y1 = said.box
        point = float(np.clip((x0 + x1) / 2, 0, width - 1)), float(np.clip((y0 + y1) / 2, 0, height - 1))
        last = record.inspectable.encoder_layers - 1
        found = encoder_attention(record, [point], [last], [None])
        tiles = [Tile("the place that asks", points=[(*point, "")]), Tile("whom it asks", found.entries[0].map)]
        yield Section(
            title("Every cell asks the others"),
            "A cell knows its own neighbourhood, and an object may be larger. So in the encoder each cell asks the "
            "others and takes from those that matter to it: this is attention. The brighter, the more is taken from "
            "there. Cells of one object tend to find each other.",
            pictures=[(tiles_figure(record.image, "", tiles, 2, record.placement), f"Encoder, layer {last}")],
        )
    queries, layers = len(scores), len(record.layers)
    yield Section(
        title("Queries ask for objects"),
        f"The model has {queries} queries. Each is to name one object, or none. In training every object was matched "
        "to one of them, so that all pairs together cost least: so they learned not to name the same object twice. "
        "Layer by layer they look at the picture, exchange what they know, and correct their answer. Here is what "
        f"they say after each of {layers} layers, where the score is {threshold:g} or more.",
        pictures=[(_by_layer(record, threshold), "Boxes and classes, layer by layer")],
    )
    if "cross-attention" in record.inspectable.abilities:
        attended = cross_attention(record, [best], range(layers), [None])
        tiles = [
            Tile(f"layer {one.layer}: {one.prediction}", one.map, marks=[_mark(record, one.layer, best)])
            for one in attended.entries
        ]
        yield Section(
            title(f"Where query {best} looks"),
            f"Query {best} ends as {said.label} with a score of {said.score:.2f}, the surest. To get there it takes "
            "from the bright places of the picture: often the edges of the object, which tell where the box ends.",
            pictures=[(tiles_figure(record.image, "", tiles, min(layers, 3), record.placement), "Its cross-attention")],
        )
    order = np.argsort(-scores, kind="stable")[:SHOWN].tolist()
    yield Section(
        title("Every query answers"),
        "A class with a score between 0 and 1, and a box, both read off by small networks that are the same for all "
        f"queries. Most of the {queries} queries predict no object, or none for sure.",
        columns=("query", "class", "score", "x0", "y0", "x1", "y1"),
        rows=[
            (one.query, one.name, one.score, *(round(value) for value in one.box))
            for one in (record.prediction(-1, query) for query in order)
        ],
    )
    marks = [_mark(record, -1, query) for query in sure.tolist()]
    yield Section(
        title("What is left"),
        f"{len(sure)} of {queries} queries reach a score of {threshold:g}: these are the detections. Nothing is "
        "removed afterwards: the queries have learned to leave each object to one of them.",
        pictures=[(draw_tile(record.image, Tile("", marks=marks), 2 * CELL), "The detections")],
    )
    yield Section(
        "The same in numbers",
        "What comes out of each part of the model, with its shape.",
        columns=("step", "shape", "what it is"),
        rows=[(stop.name, " x ".join(map(str, stop.shape)), stop.what) for stop in stops],
    )


def _channels(map_: np.ndarray) -> Image.Image:
    """The channels (C, h, w) whose cells differ most, as tiles."""
    spread = map_.std((1, 2))
    scale = np.maximum(map_.max((1, 2)) - map_.min((1, 2)), 1e-9)
    chosen = np.argsort(-spread, kind="stable")[:CHANNELS].tolist()
    tiles = []
    for channel in chosen:
        values = (map_[channel] - map_[channel].min()) / scale[channel]
        picture = Image.fromarray(heat(values))
        side = CELL // 2
        factor = side / max(picture.size)
        size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
        tiles.append((picture.resize(size, Image.Resampling.NEAREST), f"{channel}"))
    return grid_figure(tiles, 4, CELL // 2)


def _by_layer(record: PictureRecord, threshold: float) -> Image.Image:
    tiles = []
    for layer, found in enumerate(record.layers):
        sure = np.flatnonzero((found.scores >= threshold) & ~record.nothing[layer]).tolist()
        marks = [_mark(record, layer, query) for query in sure]
        tiles.append((draw_tile(record.image, Tile("", marks=marks), CELL), f"layer {layer}: {len(sure)}"))
    return grid_figure(tiles, min(3, len(tiles)), CELL)


def _mark(record: PictureRecord, layer: int, query: int) -> Mark:
    said = record.prediction(layer, query)
    return Mark(said.box, said.label, said.category_id, said.score)
