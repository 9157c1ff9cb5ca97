"""Figures of the matching in an image, a split (use of queries, as in figure 7 of DETR's paper) and a training run."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from detrcli.inspection.match_report import MatchReport
from detrcli.inspection.matching import UNMATCHED, LayerMatching
from detrcli.inspection.usage import SMALL, HardExample, Usage
from detrcli.render import draw as drawing
from detrcli.render.color import BLUE, GREEN, ORANGE, PALETTE, PURPLE, VERMILION, Color, contrast, heat
from detrcli.render.plot import Panel, plot

TRUTH, MATCHED, UNMATCHED_QUERY = BLUE, ORANGE, PURPLE
SIDE, CROWDED_SIDE = 560, 840  # pixels of the image's longer side; the latter with more than MANY_OBJECTS objects
MANY_OBJECTS = 12
GAP, TITLE, TEXT = 16, 15, 12  # pixels: between parts, and the font sizes of titles and text
MIN_CELL, MAX_CELL = 13, 30  # sides of the cells of a cost map
NAME_WIDTH = 110  # pixels, maximum

TILE, MARGIN = 104, 12
COLUMNS = 10
HARD_COLUMNS, HARD_CELL = 4, 320
MANY_EXAMPLES = 40  # with more there are twice as many columns
CONTEXT = 3.0  # side of the crop around an object, relative to the longer side of its box
MIN_CONTEXT = 0.25  # minimum side of the crop, relative to the image's shorter side
SIZE_COLORS: dict[str, Color] = {"small": GREEN, "large and wide": VERMILION, "large and tall": BLUE}


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
    return drawing.stacked([drawing.legend(entries, max(block.width for block in blocks), TEXT), *blocks], GAP, GAP)


def paired_image(report: MatchReport, layer: LayerMatching, image: Image.Image) -> Image.Image:
    """Draw each object joined to the box of its matched query, and the unmatched queries that are detections."""
    target, names = report.target, report.classes.names
    canvas = drawing.resized(image, SIDE if len(target) <= MANY_OBJECTS else CROWDED_SIDE)
    draw = ImageDraw.Draw(canvas, "RGBA")
    objects, predictions = (_on_canvas(report, boxes, canvas) for boxes in (target.boxes.cpu().numpy(), layer.boxes))
    unmatched = np.setdiff1d(np.flatnonzero(layer.scores >= report.threshold), layer.queries).tolist()
    labels: list[tuple[drawing.Box, str, Color]] = []
    for query in unmatched:
        drawing.outline(draw, predictions[query], UNMATCHED_QUERY, 2)
        labels.append((predictions[query], f"q{query} {names[layer.labels[query]]}", UNMATCHED_QUERY))
    for n, query in enumerate(layer.queries.tolist()):
        drawing.outline(draw, objects[n], TRUTH, 3)
        labels.append((objects[n], f"{n} {names[target.labels[n]]}", TRUTH))
        if query != UNMATCHED:
            drawing.outline(draw, predictions[query], MATCHED, 2)
            labels.append((predictions[query], f"q{query}", MATCHED))
    for n, query in enumerate(layer.queries.tolist()):
        if query != UNMATCHED:  # a line from the center of the object to that of the query's box
            start, end = (((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in (objects[n], predictions[query]))
            draw.line((*start, *end), fill="black", width=5)
            draw.line((*start, *end), fill="white", width=2)
            for (x, y), color, radius in ((start, TRUTH, 4), (end, MATCHED, 3)):
                draw.circle((x, y), radius, fill=color, outline="white")
    taken: list[drawing.Box] = []
    for box, name, color in labels:
        text, font = drawing.fitted(name, TEXT if len(labels) <= 50 else 10, canvas.width)
        place = drawing.find_place(box, drawing.text_size(text, font), canvas.size, taken, 3)
        if text and place:
            taken.append(place)
            drawing.write(draw, place, text, font, color)
    return canvas


def _on_canvas(report: MatchReport, boxes: np.ndarray, canvas: Image.Image) -> list[drawing.Box]:
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
    ImageDraw.Draw(block).text((0, 0), f"layer {layer.layer}", fill="black", font=drawing.default_font(TITLE))
    block.paste(paired, (0, 2 * TITLE))
    for i, panel in enumerate(panels):
        block.paste(panel, (paired.width + GAP + i % 2 * across, 2 * TITLE + i // 2 * down))
    return block


def cost_map(
    title: str, values: np.ndarray, queries: Sequence[int], names: Sequence[str], layer: LayerMatching
) -> Image.Image:
    """Return a heat map of costs (Q, N), with a row for each object and a column for each of `queries`."""
    font, small = drawing.default_font(TITLE), drawing.default_font(TEXT)
    if not names or not queries:
        panel = Image.new("RGB", (200, 60), "white")
        ImageDraw.Draw(panel).text((0, 0), f"{title}\nno objects, no costs", fill="black", font=small)
        return panel
    shown = values[list(queries)].T  # (N, columns)
    lowest, highest = float(shown.min()), float(shown.max())
    # 1, the lightest color, for the lowest cost.
    light = (highest - shown) / (highest - lowest) if highest > lowest else np.ones_like(shown)
    cell = max(MIN_CELL, min(MAX_CELL, SIDE // (2 * max(shown.shape))))

    rows = [drawing.fitted(name, TEXT, NAME_WIDTH) for name in names]
    left = max(drawing.text_size(*row)[0] for row in rows) + 4
    top, bottom = TITLE + 8, 30  # heights of the title and of the query numbers
    caption = f"{title}: {lowest:z.2f} (light) to {highest:z.2f}"
    width = max(left + cell * len(queries), drawing.text_size(caption, font)[0])
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


def usage_figure(usage: Usage, image: Callable[[int], Image.Image]) -> Image.Image:
    """Return the atlas of queries above the objects with the largest losses; `image` opens an image by its index."""
    parts = [atlas(usage)]
    if usage.worst:
        text = "objects with the largest losses, and the predictions of their queries"
        title = drawing.legend([(None, text)], 0, TEXT + 3)
        parts += [drawing.stacked([title], margin=MARGIN), _hard_examples(usage.worst, image)]
    return drawing.stacked(parts)


def atlas(usage: Usage) -> Image.Image:
    """Return a tile for each query: the centers of all boxes that it predicts, colored by their size."""
    queries, counts = len(usage.boxes), usage.used.sum(1)
    columns = min(COLUMNS, queries)
    across, down = TILE + MARGIN, TILE + MARGIN + TEXT + 6
    tiles = Image.new("RGB", (columns * across + MARGIN, -(-queries // columns) * down + MARGIN), "white")
    draw, font = ImageDraw.Draw(tiles), drawing.default_font(TEXT)
    for query, boxes in enumerate(usage.boxes):
        x, y = MARGIN + query % columns * across, query // columns * down
        tiles.paste(query_tile(boxes, usage.image_sizes), (x, y))
        caption = f"{query}: {counts[query]:,}" if counts[query] else f"{query}: none"
        draw.text((x + TILE / 2, y + TILE + 3), caption, fill="black", font=font, anchor="ma")
    text = f"all boxes of each query in {usage.images:,} images; below, the number of objects it was matched to"
    entries = [*((color, name) for name, color in SIZE_COLORS.items()), (None, text)]
    legend = drawing.legend(entries, tiles.width - 2 * MARGIN, TEXT)
    return drawing.stacked([drawing.stacked([legend], margin=MARGIN), tiles])


def query_tile(boxes: np.ndarray, sizes: np.ndarray) -> Image.Image:
    """Return a tile with a point for each box (I, 4), cxcywh in [0, 1], of a query; image sizes (I, 2) are h, w."""
    scale = 4  # supersampling, so that points are round
    tile = Image.new("RGB", (scale * TILE, scale * TILE), (240, 240, 240))
    draw = ImageDraw.Draw(tile)
    radius = scale * (1.8 if len(boxes) <= 500 else 1.0)
    heights, widths = sizes.T
    small = boxes[:, 2] * boxes[:, 3] * widths * heights <= SMALL
    wide = boxes[:, 2] * widths >= boxes[:, 3] * heights
    colors, kinds = list(SIZE_COLORS.values()), np.where(small, 0, np.where(wide, 1, 2))
    for (x, y), kind in zip((scale * TILE * boxes[:, :2]).tolist(), kinds, strict=True):
        draw.circle((x, y), radius, fill=colors[kind])
    return tile.resize((TILE, TILE), Image.Resampling.LANCZOS)


def _hard_examples(examples: Sequence[HardExample], image: Callable[[int], Image.Image]) -> Image.Image:
    """Return a grid of crops around the objects, with their losses and predictions."""
    cells = []
    for example in examples:
        whole, entry = image(example.image_index), example.document
        cx, cy, w, h = np.array(entry["box"]) * ([whole.width, whole.height] * 2)
        side = max(CONTEXT * max(w, h), MIN_CONTEXT * min(whole.size))
        left, top = max(0, round(cx - side / 2)), max(0, round(cy - side / 2))
        right, bottom = min(whole.width, round(cx + side / 2)), min(whole.height, round(cy + side / 2))
        box = (cx - w / 2 - left, cy - h / 2 - top, cx + w / 2 - left, cy + h / 2 - top)
        crop = whole.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
        predicted = f"{entry['says']['label']} {entry['score']:.2f}"
        caption = f"loss {example.loss:.1f}, image {entry['image']['id']}: {predicted}"
        cells.append((drawing.mark(crop, [drawing.Mark(box, entry["label"], entry["category_id"])]), caption))
    return drawing.grid_figure(cells, columns=HARD_COLUMNS * (1 if len(cells) <= MANY_EXAMPLES else 2), cell=HARD_CELL)


def instability_figure(
    epochs: Sequence[int], shares: np.ndarray, curves: Mapping[str, Sequence[tuple[float, float]]]
) -> Image.Image:
    """Return a plot of the shares (E, L) of objects that changed their query, beside other curves of the run."""
    layers = shares.shape[1]
    shown = np.linspace(0, layers - 1, min(layers, len(PALETTE))).round().astype(int).tolist()
    by_layer = {str(layer): list(zip(epochs, (100 * shares[:, layer]).tolist(), strict=True)) for layer in shown}
    panels = [
        Panel("objects with another query, %, by layer", "epoch", by_layer, y_min=0),
        *(Panel(name, "epoch", {name: curve}, y_min=0) for name, curve in curves.items()),
    ]
    return plot(panels, columns=len(panels))
