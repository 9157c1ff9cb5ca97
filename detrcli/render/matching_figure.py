"""The matching of an image: ground truth joined to the predictions of matched queries, beside the matching costs."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from detrcli.inspection.match_report import MatchReport
from detrcli.inspection.matching import UNMATCHED, LayerMatching
from detrcli.render.color import BLUE, ORANGE, PURPLE, Color, contrast, heat
from detrcli.render.draw import (
    Box,
    default_font,
    find_place,
    fitted,
    legend,
    outline,
    resized,
    stacked,
    text_size,
    write,
)

TRUTH, MATCHED, UNMATCHED_QUERY = BLUE, ORANGE, PURPLE
SIDE, CROWDED_SIDE = 560, 840  # pixels of the image's longer side; the latter with more than MANY objects
MANY = 12
GAP, TITLE, TEXT = 16, 15, 12
MIN_CELL, MAX_CELL = 13, 30
NAME_WIDTH = 110  # pixels, at most


def matching_figure(report: MatchReport, image: Image.Image) -> Image.Image:
    """Return a figure with a block for each selected layer, below a legend."""
    blocks = [_block(report, layer, image) for layer in report.layers_shown]
    entries: list[tuple[Color | None, str]] = [
        (TRUTH, "ground truth"),
        (MATCHED, "prediction of the matched query"),
        (UNMATCHED_QUERY, f"unmatched query with a score of {report.threshold:g} or more"),
        (None, "costs: light is low; frame: the matched query; dot: the runner-up"),
        (None, "columns: matched queries, runners-up and detections"),
    ]
    return stacked([legend(entries, max(block.width for block in blocks), TEXT), *blocks], GAP, GAP)


def paired_image(report: MatchReport, layer: LayerMatching, image: Image.Image) -> Image.Image:
    """Return an image with the ground truth joined to matched queries, and the unmatched queries with a detection."""
    target, names = report.target, report.classes.names
    canvas = resized(image, SIDE if len(target) <= MANY else CROWDED_SIDE)
    draw = ImageDraw.Draw(canvas, "RGBA")
    objects, predictions = (_on_canvas(report, boxes, canvas) for boxes in (target.boxes.cpu().numpy(), layer.boxes))
    unmatched = np.setdiff1d(np.flatnonzero(layer.scores >= report.threshold), layer.queries).tolist()
    labels: list[tuple[Box, str, Color]] = []
    for query in unmatched:
        outline(draw, predictions[query], UNMATCHED_QUERY, 2)
        labels.append((predictions[query], f"q{query} {names[layer.labels[query]]}", UNMATCHED_QUERY))
    for n, query in enumerate(layer.queries.tolist()):
        outline(draw, objects[n], TRUTH, 3)
        labels.append((objects[n], f"{n} {names[target.labels[n]]}", TRUTH))
        if query != UNMATCHED:
            outline(draw, predictions[query], MATCHED, 2)
            labels.append((predictions[query], f"q{query}", MATCHED))
    for n, query in enumerate(layer.queries.tolist()):
        if query != UNMATCHED:  # a line from the center of the object to that of the query's box
            start, end = (((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in (objects[n], predictions[query]))
            draw.line((*start, *end), fill="black", width=5)
            draw.line((*start, *end), fill="white", width=2)
            for (x, y), color, radius in ((start, TRUTH, 4), (end, MATCHED, 3)):
                draw.circle((x, y), radius, fill=color, outline="white")
    taken: list[Box] = []
    for box, name, color in labels:
        text, font = fitted(name, TEXT if len(labels) <= 50 else 10, canvas.width)
        place = find_place(box, text_size(text, font), canvas.size, taken, 3)
        if text and place:
            taken.append(place)
            write(draw, place, text, font, color)
    return canvas


def _on_canvas(report: MatchReport, boxes: np.ndarray, canvas: Image.Image) -> list[Box]:
    scale = np.array([canvas.width / report.width, canvas.height / report.height] * 2)
    return [(x0, y0, x1, y1) for x0, y0, x1, y1 in (scale * report.pixels(boxes)).tolist()]


def _block(report: MatchReport, layer: LayerMatching, image: Image.Image) -> Image.Image:
    paired = paired_image(report, layer, image)
    queries = layer.relevant_queries(report.threshold)
    names = [f"{n} {report.target_name(n)}" for n in range(len(report.target))]
    costs = {f"{name}, times {weight:g}": weight * layer.terms[name] for name, weight in report.cost_weights.items()}
    costs["total"] = layer.total
    panels = [cost_map(title, values, queries, names, layer) for title, values in costs.items()]
    across, down = (max(panel.size[axis] for panel in panels) + GAP for axis in (0, 1))
    rows = -(-len(panels) // 2)
    height = 2 * TITLE + max(paired.height, rows * down - GAP)
    block = Image.new("RGB", (paired.width + GAP + 2 * across - GAP, height), "white")
    ImageDraw.Draw(block).text((0, 0), f"layer {layer.layer}", fill="black", font=default_font(TITLE))
    block.paste(paired, (0, 2 * TITLE))
    for i, panel in enumerate(panels):
        block.paste(panel, (paired.width + GAP + i % 2 * across, 2 * TITLE + i // 2 * down))
    return block


def cost_map(
    title: str, values: np.ndarray, queries: Sequence[int], names: Sequence[str], layer: LayerMatching
) -> Image.Image:
    """Return a heat map of costs (Q, N), with a row for each object and a column for each of `queries`."""
    font, small = default_font(TITLE), default_font(TEXT)
    if not names or not queries:
        panel = Image.new("RGB", (200, 60), "white")
        ImageDraw.Draw(panel).text((0, 0), f"{title}\nno objects, no costs", fill="black", font=small)
        return panel
    shown = values[list(queries)].T  # (N, columns)
    lowest, highest = float(shown.min()), float(shown.max())
    light = (highest - shown) / (highest - lowest) if highest > lowest else np.ones_like(shown)
    cell = max(MIN_CELL, min(MAX_CELL, SIDE // (2 * max(shown.shape))))

    rows = [fitted(name, TEXT, NAME_WIDTH) for name in names]
    left = max(text_size(*row)[0] for row in rows) + 4
    top, bottom = TITLE + 8, 30  # of the title, and of the query numbers
    caption = f"{title}: {lowest:z.2f} (light) to {highest:z.2f}"
    width = max(left + cell * len(queries), text_size(caption, font)[0])
    panel = Image.new("RGB", (width, top + cell * len(names) + bottom), "white")
    draw = ImageDraw.Draw(panel)
    draw.text((0, 0), caption, fill="black", font=font)

    colors = Image.fromarray(heat(light)).resize((cell * len(queries), cell * len(names)), Image.Resampling.NEAREST)
    panel.paste(colors, (left, top))
    for n, (name, row_font) in enumerate(rows):
        draw.text((left - 5, top + (n + 0.5) * cell), name, fill="black", font=row_font, anchor="rm")
    for column, query in enumerate(queries):
        number = Image.new("RGB", (26, TEXT), "white")  # rotated, so that narrow columns have room for three digits
        ImageDraw.Draw(number).text((25, TEXT / 2), str(query), fill="black", font=small, anchor="rm")
        place = left + column * cell + (cell - TEXT) // 2, top + cell * len(names) + 3
        panel.paste(number.rotate(90, expand=True), place)
    for pair in layer.pairs:
        x, y = left + queries.index(pair.query) * cell, top + pair.target * cell
        draw.rectangle((x, y, x + cell - 1, y + cell - 1), outline="black", width=3)
        draw.rectangle((x + 1, y + 1, x + cell - 2, y + cell - 2), outline="white", width=1)
        if pair.runner_up is not None:
            column = queries.index(pair.runner_up)
            red, green, blue = heat(light[pair.target, column]).tolist()
            center = left + (column + 0.5) * cell, y + cell / 2
            draw.circle(center, cell / 7, fill=contrast((red, green, blue)))
    return panel
