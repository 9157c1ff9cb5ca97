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

CHANNELS = 8  # channels shown of a feature map
QUERIES_SHOWN = 8  # rows of the table of predictions
CELL = 300  # width of a tile in pixels


def write_explain_page(
    path: Path, record: ImageRecord, steps: Sequence[Step], maps: Mapping[str, np.ndarray], threshold: float
) -> None:
    """Write the page for an image; `maps` are the feature maps (C, h, w) before the encoder, by step name."""
    descriptions = {step.name: step.meaning for step in steps}
    best = int(record.last.scores.argmax())
    parts = (
        _image(record),
        *_features(record, maps, descriptions),
        *_encoder(record, best),
        _queries(record, threshold),
        *_cross_attention(record, best),
        *_output(record, threshold),
    )
    numbered = [replace(section, title=f"{i}. {section.title}") for i, section in enumerate(parts, 1)]
    rows = [(step.name, " x ".join(map(str, step.shape)), step.meaning) for step in steps]
    columns = ("step", "shape", "description")
    write_page(
        path,
        f"{record.detector.checkpoint.source} on {record.name}",
        "From pixels to boxes, step by step. All figures on this page were made from this image.",
        [*numbered, Section("All steps", "The output of each part of the model.", columns=columns, rows=rows)],
    )


def _image(record: ImageRecord) -> Section:
    height, width = record.size
    _, input_height, input_width = record.pixels.shape
    text = (
        f"The image has {width} x {height} pixels, each with a value for red, green and blue: "
        f"{3 * width * height:,} numbers. None of them says where an object is. "
    )
    if (input_height, input_width) == (height, width):
        text += "The model takes images of this size."
    else:
        text += f"It is resized to {input_width} x {input_height} pixels, as the images in training were."
    return Section("The image as numbers", text, figures=[(shrunk(record.image), record.name)])


def _features(
    record: ImageRecord, maps: Mapping[str, np.ndarray], descriptions: Mapping[str, str]
) -> Iterator[Section]:
    for i, (name, map_) in enumerate(maps.items()):
        channels, rows, columns = map_.shape
        text = f"{descriptions.get(name, name).capitalize()}."
        if i == 0:
            cell = record.pixels.shape[2] / columns
            text = (
                "Convolutions combine the pixels of small neighborhoods, layer by layer. The result is a map of "
                f"{columns} x {rows} cells, each about {cell:.0f} pixels wide, with {channels:,} channels. Each "
                "channel is a feature that the model learned in training, such as an edge, a color or a corner; "
                "bright cells contain it. No feature is a whole object yet."
            )
        caption = f"The {min(CHANNELS, channels)} channels that vary most, of {channels:,}"
        yield Section(f"Feature map: {name}", text, figures=[(_channels(map_), caption)])


def _encoder(record: ImageRecord, best: int) -> Iterator[Section]:
    layers = record.inspectable.encoder_layers
    if "encoder attention" not in record.inspectable.abilities or not layers:
        return
    (height, width), (x0, y0, x1, y1) = record.size, record.prediction(-1, best).box
    point = float(np.clip((x0 + x1) / 2, 0, width - 1)), float(np.clip((y0 + y1) / 2, 0, height - 1))
    map_ = encoder_attention(record, [point], [layers - 1], ["mean"]).entries[0].values
    tiles = [Tile("a point", points=[(*point, "")]), Tile("its attention", map_)]
    figure = tiles_figure(record.image, "", tiles, 2, record.placement)
    yield Section(
        "Encoder self-attention",
        "A cell describes its neighborhood, but an object may be larger. So each cell gathers information from all "
        "other cells, weighted by attention: the brighter a cell, the larger its weight. Cells of the same object "
        "often attend to each other.",
        figures=[(figure, f"Encoder layer {layers - 1}")],
    )


def _queries(record: ImageRecord, threshold: float) -> Section:
    layers, tiles = len(record.layers), []
    for layer, detections in enumerate(record.layers):
        kept = np.flatnonzero((detections.scores >= threshold) & ~record.no_object[layer]).tolist()
        tile = Tile("", marks=[_mark(record, layer, query) for query in kept])
        tiles.append((draw_tile(record.image, tile, CELL), f"layer {layer}: {len(kept)}"))
    return Section(
        "Object queries",
        f"The model has {len(record.last)} queries. Each predicts an object or no object. In training, Hungarian "
        "matching assigned every object to a single query, so the queries have learned not to predict an object "
        "twice. In each decoder layer the queries attend to the image and to each other, and refine their "
        f"predictions. The figure shows the predictions of {layers} layers with a score of at least "
        f"{threshold:g}.",
        figures=[(grid_figure(tiles, min(3, layers), CELL), "Predictions of each decoder layer")],
    )


def _cross_attention(record: ImageRecord, best: int) -> Iterator[Section]:
    layers = len(record.layers)
    if "cross-attention" not in record.inspectable.abilities:
        return
    tiles = []
    for entry in cross_attention(record, [best], range(layers), ["mean"]).entries:
        caption = f"layer {entry.layer}: {record.prediction(entry.layer, best)}"
        tiles.append(Tile(caption, entry.values, marks=[_mark(record, entry.layer, best)]))
    prediction = record.prediction(-1, best)
    yield Section(
        f"Cross-attention of query {best}",
        f"Query {best} has the highest score, {prediction.score:.2f}, for {prediction.label}. It gathers "
        "information from the bright cells, often at the edges of the object, which determine the box.",
        figures=[(tiles_figure(record.image, "", tiles, min(layers, 3), record.placement), "Each decoder layer")],
    )


def _output(record: ImageRecord, threshold: float) -> Iterator[Section]:
    scores = record.last.scores
    order = np.argsort(-scores, kind="stable").tolist()
    predictions = [record.prediction(-1, query) for query in order[:QUERIES_SHOWN]]
    yield Section(
        "Predictions",
        "Two small networks, shared by all queries, predict a class with a score between 0 and 1, and a box. Most "
        f"of the {len(scores)} queries predict no object or have a low score.",
        columns=("query", "class", "score", "x0", "y0", "x1", "y1"),
        rows=[(p.query, p.name, p.score, *(round(value) for value in p.box)) for p in predictions],
    )
    marks = [_mark(record, -1, query) for query in order if scores[query] >= threshold]
    yield Section(
        "Detections",
        f"{len(marks)} of {len(scores)} queries have a score of at least {threshold:g}: these are the "
        "detections. No non-maximum suppression is needed, because each object is predicted by a single query.",
        figures=[(draw_tile(record.image, Tile("", marks=marks), 2 * CELL), "The detections")],
    )


def _mark(record: ImageRecord, layer: int, query: int) -> Mark:
    prediction = record.prediction(layer, query)
    return Mark(prediction.box, prediction.label, prediction.category_id, prediction.score)


def _channels(map_: np.ndarray) -> Image.Image:
    """Draw the channels of a feature map (C, h, w) that vary most."""
    tiles = []
    for channel in np.argsort(-map_.std((1, 2)), kind="stable")[:CHANNELS].tolist():
        values = map_[channel] - map_[channel].min()
        image = Image.fromarray(heat(values / max(values.max(), 1e-9)))
        tiles.append((resized(image, CELL // 2, Image.Resampling.NEAREST), f"{channel}"))
    return grid_figure(tiles, 4, CELL // 2)
