"""Measure how many wrong labels are among the objects with the largest losses.

    python examples/wrong_labels.py WEIGHTS [SHEET.png]

Generates images of shapes, changes the class of 5% of the objects, and lists twice as many objects with the largest
losses with `detr match-debug --all`. WEIGHTS is a model trained on other images of shapes, for example `shapes` or the
run folder of `detr train shapes --model detr-tiny`. Expected: at least 80% of the wrong labels are found.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from detrcli.data.make import make_shapes

IMAGES, SEED, WRONG = 2000, 1, 0.05  # val is a fifth of the images


def corrupt(path: Path) -> tuple[set[tuple[int, int]], int]:
    """Change classes in an annotation file; return the changed (image, object index) and the number of objects."""
    document = json.loads(path.read_text(encoding="utf-8"))
    annotations = document["annotations"]
    rng = np.random.default_rng(SEED)
    chosen = set(rng.choice(len(annotations), round(WRONG * len(annotations)), replace=False).tolist())
    ids = [category["id"] for category in document["categories"]]
    wrong, count = set(), dict.fromkeys((image["id"] for image in document["images"]), 0)
    for i, annotation in enumerate(annotations):
        image = annotation["image_id"]
        if i in chosen:
            others = [category for category in ids if category != annotation["category_id"]]
            annotation["category_id"] = int(rng.choice(others))
            wrong.add((image, count[image]))
        count[image] += 1
    path.write_text(json.dumps(document), encoding="utf-8")
    return wrong, len(annotations)


def worst(data: Path, weights: str, count: int, sheet: Path) -> list[tuple[int, int]]:
    """Return the (image, index of the object) with the largest losses."""
    shown = subprocess.run(
        [
            *(sys.executable, "-m", "detrcli", "match-debug", data, "--weights", weights),
            *("--all", "--worst", str(count), "--out", sheet, "--overwrite", "--json"),
        ],
        stdout=subprocess.PIPE,
        check=True,
    )
    return [(case["image"]["id"], case["target"]) for case in json.loads(shown.stdout)["largest_losses"]]


def main() -> None:
    weights = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "shapes")
        sheet = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(folder, "sheet.png")
        make_shapes(data, images=IMAGES, seed=SEED)
        wrong, objects = corrupt(data / "annotations" / "instances_val.json")
        listed = worst(data, weights, 2 * len(wrong), sheet)
    hits = len(wrong.intersection(listed))
    print(f"{objects:,} objects, {len(wrong)} of them with a wrong label")
    print(f"the {len(listed)} objects with the largest loss contain {hits} of them: {hits / len(wrong):.1%}")
    print(json.dumps({"objects": objects, "wrong": len(wrong), "listed": len(listed), "found": hits}))


if __name__ == "__main__":
    main()
