"""A picture with its pairs, truth joined to prediction, beside the costs that decided on them."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from detrcli.inspection.matching import UNMATCHED, LayerMatching
from detrcli.inspection.report import MatchReport
from detrcli.render.colour import Colour, contrast, heat
from detrcli.render.draw import Box, Font, default_font, find_place, font_for, outline, shorten, text_size, write
from detrcli.system.text import escape_controls

# Okabe and Ito's, told apart by the colour-blind too.
TRUTH: Colour = (0, 114, 178)
MATCHED: Colour = (230, 159, 0)
UNMATCHED_QUERY: Colour = (204, 121, 167)

PICTURE, CROWDED = 560, 840  # pixels of its longer side; the latter where there are many objects
MANY = 12
GAP, TITLE, TEXT = 16, 15, 12
LEAST_CELL, GREATEST_CELL = 13, 30
NAMES = 110  # pixels for the names of rows, at most


def matching_figure(report: MatchReport, image: Image.Image) -> Image.Image:
    """A block for each layer that is shown, one below the other, and what the colours mean at the top."""
    blocks = [_block(report, layer, image) for layer in report.layers_shown]
    legend = _legend(report.threshold, max((block.width for block in blocks), default=0))
    width = max(block.width for block in [legend, *blocks]) + 2 * GAP
    height = legend.height + sum(block.height + GAP for block in blocks) + 2 * GAP
    page = Image.new("RGB", (width, height), "white")
    page.paste(legend, (GAP, GAP))
    y = legend.height + 2 * GAP
    for block in blocks:
        page.paste(block, (GAP, y))
        y += block.height + GAP
    return page


def paired_picture(report: MatchReport, layer: LayerMatching, image: Image.Image) -> Image.Image:
    """Ground truth and predictions of the matched queries, joined; and the unmatched queries with a detection."""
    target, classes = report.target, report.classes
    scale = (PICTURE if len(target) <= MANY else CROWDED) / max(image.size)
    canvas = image.resize(
        (max(1, round(scale * image.width)), max(1, round(scale * image.height))), Image.Resampling.BICUBIC
    )
    draw = ImageDraw.Draw(canvas, "RGBA")
    objects, found = (_on_canvas(report, boxes, canvas) for boxes in (target.boxes.cpu().numpy(), layer.boxes))
    sure = np.setdiff1d(np.flatnonzero(layer.scores >= report.threshold), layer.queries).tolist()

    labelled: list[tuple[Box, str, Colour]] = []
    for query in sure:
        outline(draw, found[query], UNMATCHED_QUERY, 2)
        labelled.append((found[query], f"q{query} {classes.names[layer.labels[query]]}", UNMATCHED_QUERY))
    for n, query in enumerate(layer.queries.tolist()):
        outline(draw, objects[n], TRUTH, 3)
        labelled.append((objects[n], f"{n} {classes.names[target.labels[n]]}", TRUTH))
        if query != UNMATCHED:
            outline(draw, found[query], MATCHED, 2)
            labelled.append((found[query], f"q{query}", MATCHED))
    for n, query in enumerate(layer.queries.tolist()):
        if query != UNMATCHED:
            _join(draw, objects[n], found[query])
    taken: list[Box] = []
    size = TEXT if len(labelled) <= 50 else 10
    for box, name, colour in labelled:
        font = font_for(escape_controls(name), size) or default_font(size)
        text = shorten(escape_controls(name), "", font, canvas.width)
        place = find_place(box, text_size(text, font), canvas.size, taken, 3)
        if text and place:
            taken.append(place)
            write(draw, place, text, font, colour)
    return canvas


def _join(draw: ImageDraw.ImageDraw, a: Box, b: Box) -> None:
    """From the middle of an object to that of its query's box."""
    start, end = (((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in (a, b))
    draw.line((*start, *end), fill=(0, 0, 0, 255), width=5)
    draw.line((*start, *end), fill=(255, 255, 255, 255), width=2)
    for (x, y), colour, radius in ((start, TRUTH, 4), (end, MATCHED, 3)):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline="white")


def _on_canvas(report: MatchReport, boxes: np.ndarray, canvas: Image.Image) -> list[Box]:
    scale = np.array([canvas.width / report.width, canvas.height / report.height] * 2)
    return [(x0, y0, x1, y1) for x0, y0, x1, y1 in (scale * report.pixels(boxes)).tolist()]


def _block(report: MatchReport, layer: LayerMatching, image: Image.Image) -> Image.Image:
    picture = paired_picture(report, layer, image)
    queries = layer.that_matter(report.threshold)
    names = [f"{n} {report.target_name(n)}" for n in range(len(report.target))]
    tables = {f"{name}, times {weight:g}": weight * layer.terms[name] for name, weight in report.cost_weights.items()}
    panels = [
        cost_map(title, values, queries, names, layer) for title, values in {**tables, "total": layer.total}.items()
    ]
    across, down = (max(panel.size[axis] for panel in panels) + GAP for axis in (0, 1))
    rows = -(-len(panels) // 2)
    height = 2 * TITLE + max(picture.height, rows * down - GAP)
    block = Image.new("RGB", (picture.width + GAP + 2 * across - GAP, height), "white")
    ImageDraw.Draw(block).text((0, 0), f"layer {layer.layer}", fill="black", font=default_font(TITLE))
    block.paste(picture, (0, 2 * TITLE))
    for i, panel in enumerate(panels):
        block.paste(panel, (picture.width + GAP + i % 2 * across, 2 * TITLE + i // 2 * down))
    return block


def cost_map(
    title: str, values: np.ndarray, queries: Sequence[int], names: Sequence[str], layer: LayerMatching
) -> Image.Image:
    """A heat map of `values` (Q, N): a row for each object, a column for each query that matters."""
    font, small = default_font(TITLE), default_font(TEXT)
    if not names or not queries:
        panel = Image.new("RGB", (200, 60), "white")
        ImageDraw.Draw(panel).text((0, 0), f"{title}\nno objects, no costs", fill="black", font=small)
        return panel
    shown = values[list(queries)].T  # (N, columns)
    least, most = float(shown.min()), float(shown.max())
    light = (most - shown) / (most - least) if most > least else np.ones_like(shown)
    cell = max(LEAST_CELL, min(GREATEST_CELL, PICTURE // (2 * max(shown.shape))))

    rows = [shorten(escape_controls(name), "", font_for(escape_controls(name), TEXT) or small, NAMES) for name in names]
    left = max(text_size(row, font_for(row, TEXT) or small)[0] for row in rows) + 4
    top, labels = TITLE + 8, 30  # of the title, and of the queries' numbers
    caption = f"{title}: {least:z.2f} (light) to {most:z.2f}"
    width = max(left + cell * len(queries), text_size(caption, font)[0])
    panel = Image.new("RGB", (width, top + cell * len(names) + labels), "white")
    draw = ImageDraw.Draw(panel)
    draw.text((0, 0), caption, fill="black", font=font)

    coloured = Image.fromarray(heat(light)).resize((cell * len(queries), cell * len(names)), Image.Resampling.NEAREST)
    panel.paste(coloured, (left, top))
    for n, row in enumerate(rows):
        draw.text((left - 5, top + (n + 0.5) * cell), row, fill="black", font=font_for(row, TEXT) or small, anchor="rm")
    for column, query in enumerate(queries):
        panel.paste(
            _upright(f"{query}", small), (left + column * cell + (cell - TEXT) // 2, top + cell * len(names) + 3)
        )
    for pair in layer.pairs:
        x, y = left + queries.index(pair.query) * cell, top + pair.target * cell
        draw.rectangle((x, y, x + cell - 1, y + cell - 1), outline="black", width=3)
        draw.rectangle((x + 1, y + 1, x + cell - 2, y + cell - 2), outline="white", width=1)
        if pair.runner_up is not None:
            x = left + queries.index(pair.runner_up) * cell
            red, green, blue = heat(light[pair.target, queries.index(pair.runner_up)]).tolist()
            middle, radius = (x + cell / 2, y + cell / 2), cell / 7
            draw.ellipse(
                (middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius),
                fill=contrast((red, green, blue)),
            )
    return panel


def _upright(text: str, font: Font) -> Image.Image:
    """A number that reads from below to above, so that narrow columns have room for three digits."""
    lying = Image.new("RGB", (26, TEXT), "white")
    ImageDraw.Draw(lying).text((25, TEXT / 2), text, fill="black", font=font, anchor="rm")
    return lying.rotate(90, expand=True)


def _legend(threshold: float, width: int) -> Image.Image:
    """What the colours and the marks mean, in as many lines as the figure is narrow."""
    font, line = default_font(TEXT), TEXT + 8
    entries: list[tuple[Colour | None, str]] = [
        (TRUTH, "ground truth"),
        (MATCHED, "prediction of the matched query"),
        (UNMATCHED_QUERY, f"unmatched query with a score of {threshold:g} or more"),
        (None, "costs: light is cheap; framed: the matched query; dot: the runner-up"),
        (None, "columns: matched queries, runners-up and detections"),
    ]
    places, x, y = [], 0, 0
    for colour, text in entries:
        long = round(font.getlength(text)) + (0 if colour is None else 22) + 24
        if x and x + long > width:
            x, y = 0, y + line
        places.append((x, y, long))
        x += long
    legend = Image.new("RGB", (max(x + long for x, _, long in places), y + line), "white")
    draw = ImageDraw.Draw(legend)
    for (colour, text), (x, y, _) in zip(entries, places, strict=True):
        if colour is not None:
            draw.rectangle((x, y + 4, x + 16, y + TEXT + 2), fill=colour)
        draw.text((x + (0 if colour is None else 22), y + 2), text, fill="black", font=font)
    return legend
