"""How many wrong labels are among the objects with the largest losses.

    python examples/wrong_labels.py WEIGHTS [SHEET.png]

Makes pictures of shapes, gives one object in twenty another class, and asks `detr match-debug --all` for twice as
many of the worst objects. The weights are those of a model that was trained on other pictures of shapes; the run
folder of `detr train shapes --model detr-tiny` will do. Expected: at least 80% of the wrong labels are found.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from detrcli.data.make import make_shapes

IMAGES, SEED, WRONG = 2000, 1, 0.05  # val is a fifth of the images


def spoil(path: Path) -> tuple[set[tuple[int, int]], int]:
    """Change classes in an annotation file: which (image, object of it) are wrong now, and how many there are."""
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


def worst(data: Path, weights: str, most: int, sheet: Path) -> list[tuple[int, int]]:
    """The (image, object) with the largest losses."""
    shown = subprocess.run(
        [
            *(sys.executable, "-m", "detrcli", "match-debug", data, "--weights", weights),
            *("--all", "--worst", str(most), "--out", sheet, "--overwrite", "--json"),
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
        wrong, objects = spoil(data / "annotations" / "instances_val.json")
        found = worst(data, weights, 2 * len(wrong), sheet)
    hits = len(wrong.intersection(found))
    print(f"{objects:,} objects, {len(wrong)} of them with a wrong label")
    print(f"among the {len(found)} with the largest loss are {hits}: {hits / len(wrong):.1%}")
    print(json.dumps({"objects": objects, "wrong": len(wrong), "listed": len(found), "found": hits}))


if __name__ == "__main__":
    main()
