"""Measure detection of small objects in large images, without and with tiles.

    python examples/small_objects.py
    python examples/small_objects.py --scenes 6 --group 240 --groups 8 --sizes 800 1333 --tiles 800x800 400x400
    python examples/small_objects.py --keep scenes  # also for `detr eval scenes --weights shapes --tiles 160x160`

Shapes of the built-in dataset are placed in scenes of 4,000 x 4,000 pixels, in groups of up to five; they are 4 to 38
pixels in size, or larger with another size of the group. The shipped weights `shapes` are evaluated on them on a CPU,
in batches of 16, at their own input size, at larger ones, and with tiles. The last line is the result as JSON. Takes
six minutes on two cores.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import detrcli
from detrcli.data.shapes import DEFAULT, scene
from detrcli.run_lengths import box_around

NOISE = 14  # gray levels, as in the drawings


def write_scenes(folder: Path, scenes: int, side: int, groups: int, group: int, seed: int = 0) -> int:
    """Write a COCO dataset with the split val. Return the number of objects.

    A scene has `groups` drawings of `group` x `group` pixels, of which only the shapes are shown.
    """
    (folder / "val").mkdir(parents=True)
    (folder / "annotations").mkdir()
    rng = np.random.default_rng(seed)
    images, annotations, drawing = [], [], 0
    for id_ in range(1, scenes + 1):
        colors = Image.fromarray(rng.integers(30, 226, (8, 8, 3), dtype=np.uint8))
        canvas = np.array(colors.resize((side, side), Image.Resampling.BICUBIC), dtype=np.int16)
        canvas += rng.integers(-NOISE, NOISE + 1, canvas.shape, dtype=np.int16)
        cells = rng.choice((side // group) ** 2, groups, replace=False)  # so that groups do not overlap
        for cell in cells.tolist():
            top, left = (group * index for index in divmod(cell, side // group))
            drawn = scene(seed, drawing, size=group)
            drawing += 1
            part = canvas[top : top + group, left : left + group]
            shown = drawn.masks.any(0)
            part[shown] = drawn.pixels[shown]
            for label, mask in zip(drawn.labels.tolist(), drawn.masks, strict=True):
                x, y, w, h = box_around(mask)
                entry = {"id": len(annotations) + 1, "image_id": id_, "category_id": label + 1, "iscrowd": 0}
                annotations.append({**entry, "bbox": [left + x, top + y, w, h], "area": int(mask.sum())})
        name = f"{id_}.png"
        Image.fromarray(canvas.clip(0, 255).astype(np.uint8)).save(folder / "val" / name, compress_level=1)
        images.append({"id": id_, "file_name": name, "width": side, "height": side})
    categories = [{"id": i, "name": name} for i, name in enumerate(DEFAULT, 1)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(document), encoding="utf-8")
    return len(annotations)


def measure(folder: Path, **options: object) -> dict[str, object]:
    start = time.perf_counter()
    weights = detrcli.LoadOptions("shapes", device="cpu", **options)
    evaluation = detrcli.evaluate(folder, weights, batch_size=16)
    names = ("AP", "APs", "APm", "ARs")
    metrics = {name: round(evaluation.metrics[name], 3) for name in names}
    return {
        **options,
        **metrics,
        "seconds_per_image": round((time.perf_counter() - start) / len(evaluation.truth.images), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenes", type=int, default=4)
    parser.add_argument("--side", type=int, default=4000)
    parser.add_argument("--groups", type=int, default=100)
    parser.add_argument("--group", type=int, default=80, help="pixels of a drawing whose shapes are placed together")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1333, 4000])
    parser.add_argument("--tiles", nargs="*", default=["10", "400x400", "240x240", "160x160"])
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary, "scenes")
        objects = write_scenes(folder, arguments.scenes, arguments.side, arguments.groups, arguments.group)
        print(f"{arguments.scenes} scenes with {objects} objects")
        rows = [measure(folder), *(measure(folder, size=size, max_size=size) for size in arguments.sizes)]
        rows += [measure(folder, tiles=tiles) for tiles in arguments.tiles]
    for row in rows:
        print(row)
    print(json.dumps({"objects": objects, "rows": rows}))


if __name__ == "__main__":
    main()
