"""A page that follows an image through a model, step by step, for newcomers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from detrcli.inspection.attention import cross_attention, encoder_attention
from detrcli.inspection.record import ImageRecord
from detrcli.inspection.walk import Step
from detrcli.render.attention_figure import Tile, draw_tile, tiles_figure
from detrcli.render.color import heat
from detrcli.render.draw import Mark, grid_figure, resized
from detrcli.render.page import Section, shrunk, write_page

CHANNELS = 8  # of a feature map that are shown
QUERIES_SHOWN = 8  # in the table of predictions
CELL = 300  # pixels of a tile


def write_explain_page(
    path: Path, record: ImageRecord, stops: Sequence[Step], maps: Mapping[str, np.ndarray], threshold: float
) -> None:
    """Write the page of an image; `maps` are feature maps (C, h, w) by the names of their stages."""
    sections = [
        replace(section, title=f"{i}. {section.title}")
        for i, section in enumerate(_steps(record, stops, maps, threshold), 1)
    ]
    rows = [(stop.name, " x ".join(map(str, stop.shape)), stop.what) for stop in stops]
    columns = ("step", "shape", "description")
    write_page(
        path,
        f"{record.detector.checkpoint.source} on {record.name}",
        "From pixels to boxes, step by step. All figures on this page were made from this image.",
        [*sections, Section("All steps", "The output of each part of the model.", columns=columns, rows=rows)],
    )


def _steps(
    record: ImageRecord, stops: Sequence[Step], maps: Mapping[str, np.ndarray], threshold: float
) -> Iterator[Section]:
    height, width = record.size
    _, input_height, input_width = record.pixels.shape
    scores = record.last.scores
    queries, layers = len(scores), len(record.layers)
    best = int(scores.argmax())
    prediction = record.prediction(-1, best)
    resizing = (
        "The model takes images of this size."
        if (input_height, input_width) == (height, width)
        else f"It is resized to {input_width} x {input_height} pixels, as the images in training were."
    )
    yield Section(
        "The image as numbers",
        f"The image has {width} x {height} pixels, each with a value for red, green and blue: {3 * width * height:,} "
        f"numbers. None of them says where an object is. {resizing}",
        figures=[(shrunk(record.image), record.name)],
    )
    descriptions = {stop.name: stop.what for stop in stops}
    for i, (name, map_) in enumerate(maps.items()):
        channels, rows, columns = map_.shape
        first = (
            "Convolutions combine the pixels of small neighborhoods, layer by layer. The result is a map of "
            f"{columns} x {rows} cells, each about {input_width / columns:.0f} pixels wide, with {channels:,} numbers. "
            "Each number is a feature that the model learned in training, such as an edge, a color or a corner; bright "
            "cells contain it. No feature is a whole object yet."
        )
        yield Section(
            f"Feature map: {name}",
            f"{descriptions.get(name, name).capitalize()}." if i else first,
            figures=[(_channels(map_), f"The {min(CHANNELS, channels)} channels that vary most, of {channels:,}")],
        )
    if "encoder attention" in record.inspectable.abilities and record.inspectable.encoder_layers:
        x0, y0, x1, y1 = prediction.box
        point = float(np.clip((x0 + x1) / 2, 0, width - 1)), float(np.clip((y0 + y1) / 2, 0, height - 1))
        last = record.inspectable.encoder_layers - 1
        map_ = encoder_attention(record, [point], [last], ["mean"]).entries[0].values
        tiles = [Tile("a point", points=[(*point, "")]), Tile("its attention", map_)]
        yield Section(
            "Encoder self-attention",
            "A cell describes its neighborhood, but an object may be larger. So each cell gathers information from all "
            "other cells, weighted by attention: the brighter a cell, the larger its weight. Cells of the same object "
            "often attend to each other.",
            figures=[(tiles_figure(record.image, "", tiles, 2, record.placement), f"Encoder layer {last}")],
        )
    tiles_by_layer = []
    for layer, detections in enumerate(record.layers):
        kept = np.flatnonzero((detections.scores >= threshold) & ~record.no_object[layer]).tolist()
        tile = Tile("", marks=[_mark(record, layer, query) for query in kept])
        tiles_by_layer.append((draw_tile(record.image, tile, CELL), f"layer {layer}: {len(kept)}"))
    yield Section(
        "Object queries",
        f"The model has {queries} queries. Each predicts an object or no object. In training, Hungarian matching "
        "assigned every object to a single query, so the queries have learned not to predict an object twice. In each "
        "decoder layer the queries attend to the image and to each other, and refine their predictions. The figure "
        f"shows the predictions of {layers} layers with a score of at least {threshold:g}.",
        figures=[(grid_figure(tiles_by_layer, min(3, layers), CELL), "Predictions of each decoder layer")],
    )
    if "cross-attention" in record.inspectable.abilities:
        tiles = [
            Tile(
                f"layer {entry.layer}: {record.prediction(entry.layer, best)}",
                entry.values,
                marks=[_mark(record, entry.layer, best)],
            )
            for entry in cross_attention(record, [best], range(layers), ["mean"]).entries
        ]
        yield Section(
            f"Cross-attention of query {best}",
            f"Query {best} has the highest score, {prediction.score:.2f}, for {prediction.label}. It gathers "
            "information from the bright cells, often at the edges of the object, which determine the box.",
            figures=[(tiles_figure(record.image, "", tiles, min(layers, 3), record.placement), "Each decoder layer")],
        )
    order = np.argsort(-scores, kind="stable").tolist()
    predictions = [record.prediction(-1, query) for query in order[:QUERIES_SHOWN]]
    yield Section(
        "Predictions",
        "Two small networks, shared by all queries, predict a class with a score between 0 and 1, and a box. Most of "
        f"the {queries} queries predict no object or have a low score.",
        columns=("query", "class", "score", "x0", "y0", "x1", "y1"),
        rows=[(p.query, p.name, p.score, *(round(value) for value in p.box)) for p in predictions],
    )
    marks = [_mark(record, -1, query) for query in order if scores[query] >= threshold]
    yield Section(
        "Detections",
        f"{len(marks)} of {queries} queries have a score of at least {threshold:g}: these are the detections. No "
        "non-maximum suppression is needed, because each object is left to a single query.",
        figures=[(draw_tile(record.image, Tile("", marks=marks), 2 * CELL), "The detections")],
    )


def _channels(map_: np.ndarray) -> Image.Image:
    """Return the channels (C, h, w) that vary most, as tiles."""
    tiles = []
    for channel in np.argsort(-map_.std((1, 2)), kind="stable")[:CHANNELS].tolist():
        values = map_[channel] - map_[channel].min()
        image = Image.fromarray(heat(values / max(values.max(), 1e-9)))
        tiles.append((resized(image, CELL // 2, Image.Resampling.NEAREST), f"{channel}"))
    return grid_figure(tiles, 4, CELL // 2)


def _mark(record: ImageRecord, layer: int, query: int) -> Mark:
    prediction = record.prediction(layer, query)
    return Mark(prediction.box, prediction.label, prediction.category_id, prediction.score)
