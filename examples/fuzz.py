"""Broken files of every kind that is read, made from whole ones by chance: none may bring the program down.

    pip install . && python examples/fuzz.py [--annotations 20000] [--pictures 5000] [--weights 5000] [--seed 0]

Each case is read as the commands read it, in a process of its own kind that is watched. It is well if it is read, or
told as the user's error with the exit code that belongs to it. It fails if it ends in an exception that is a bug of
ours, brings the process down, takes more than 5 seconds, or more than 1 GB. `--only coco:17` runs one case again, and
`--keep DIR` keeps the files of those that fail. Prints a table, what failed, and one JSON line.
"""

import argparse
import io
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from detrcli.architectures import architecture_of, preset
from detrcli.checkpoints.checkpoint import Checkpoint, classes_by_index
from detrcli.checkpoints.formats.header import CHECKSUM, checksum, from_header, header_of
from detrcli.checkpoints.formats.native import in_order
from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.examine import examine
from detrcli.data.headers import read_header
from detrcli.data.images import open_picture
from detrcli.data.source import open_data
from detrcli.errors import DataError, to_user_error
from detrcli.evaluation.results import read_results
from detrcli.evaluation.thresholds import read_thresholds
from detrcli.evaluation.truth import truth_of
from detrcli.inference.detector import Detector
from detrcli.training.setup import prepare_data
from detrcli.training.state import load_state, save_state

SECONDS, MEGABYTES = 5.0, 1000
PATIENCE = 60.0  # until a process that does not answer is ended; others may use its processor

# What no author of a reader thinks of.
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 2**31, 2**63, -(2**63), 10**30, 1e308, -1e308, 5e-324, float("nan"),
    float("inf"), -float("inf"), "", "0", "-1", "1e999", "nan", "null", "../../x", "/etc/passwd", "a\0b", "\ud800",
    "\u202e\u200b", "x" * 3000, "9" * 5000, [], {}, [[]], [None], {"": None}, [0] * 5, "C:\\x", "http://x/y",
)  # fmt: skip
ODD_WORDS = (
    "",
    "-1",
    "1e999",
    "nan",
    "9" * 400,
    "9" * 5000,
    "\0",
    "&x;",
    "]]>",
    "<a>",
    "{",
    "[" * 50,
    "../..",
    "é",
    "\t",
)


# ---- chance ------------------------------------------------------------------------------------------------


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, lost, doubled or put in."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 8, 30))):
        place, length = chance.randrange(len(changed) + 1), chance.choice((1, 1, 2, 4, 16, 200))
        way = chance.randrange(7)
        if way == 0 and changed:
            changed[min(place, len(changed) - 1)] ^= 1 << chance.randrange(8)
        elif way == 1:
            changed[place : place + length] = chance.randbytes(length)
        elif way == 2:
            del changed[place : place + length]
        elif way == 3:
            changed[place:place] = changed[place : place + length]
        elif way == 4:
            changed[place : place + 4] = chance.choice(
                (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0")
            )
        elif way == 5:
            del changed[place:]
        else:
            other = chance.randrange(len(changed) + 1)
            changed[place : place + length] = changed[other : other + length]
    return bytes(changed)


def reworded(text: str, chance: random.Random) -> bytes:
    """Some words and signs of a text replaced, and now and then its bytes."""
    for _ in range(chance.choice((1, 1, 2, 5))):
        start = chance.randrange(len(text) + 1)
        text = text[:start] + chance.choice(ODD_WORDS) + text[start + chance.choice((0, 1, 3, 10)) :]
    data = text.encode("utf-8", "surrogatepass")
    return mutated(data, chance) if chance.random() < 0.3 else data


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a document with each of its keys."""
    for key in list(document) if isinstance(document, dict) else range(len(document)):
        yield document, key
        if isinstance(document[key], dict | list):
            yield from places(document[key])


def misdocumented(document: Any, chance: random.Random) -> Any:
    """Values of a document that is made of lists and maps replaced, lost or doubled."""
    document = deepcopy(document)
    for _ in range(chance.choice((1, 1, 2, 4))):
        found = list(places(document))
        if not found:
            break
        parent, key = chance.choice(found)
        way = chance.randrange(6)
        if way == 0:
            del parent[key]
        elif way == 1 and isinstance(parent, list):
            parent += [deepcopy(parent[key]) for _ in range(chance.choice((1, 50)))]
        elif way == 2:
            other, its_key = chance.choice(found)
            parent[key] = deepcopy(other[its_key])
        else:
            parent[key] = deepcopy(chance.choice(ODD))
    return document


def as_json(document: Any, chance: random.Random) -> bytes:
    """A document with odd values, or its text with odd words."""
    if chance.random() < 0.6:
        return json.dumps(misdocumented(document, chance)).encode()
    return reworded(json.dumps(document), chance)


# ---- annotations -------------------------------------------------------------------------------------------

COCO = {
    "images": [{"id": i, "file_name": f"{i}.png", "width": 50, "height": 40} for i in (1, 2)],
    "annotations": [
        {"id": i, "image_id": 1 + i % 2, "category_id": 1 + i % 3, "bbox": [i, 2.5, 10, 12], "area": 120, "iscrowd": 0}
        for i in range(6)
    ],
    "categories": [{"id": i, "name": f"class {i}", "supercategory": "all"} for i in (1, 2, 3)],
}
RESULTS = [
    {"image_id": i, "category_id": 1 + i, "bbox": [1, 2.5, 3, 4], "score": 0.5, "file_name": f"{i}.png"} for i in (1, 2)
]
BEST = {"threshold": 0.4, "f1": 0.5, "precision": 0.5, "recall": 0.5, "objects": 3}
THRESHOLDS = {"schema": "detr.thresholds/1", "iou": 0.5, "all": BEST, "classes": {"ant": BEST, "bee": BEST}}
VOC = """<?xml version="1.0" encoding="utf-8"?>
<annotation><folder>a</folder><filename>1.png</filename><size><width>50</width><height>40</height><depth>3</depth></size>
<object><name>ant</name><difficult>0</difficult><bndbox><xmin>3</xmin><ymin>3</ymin><xmax>20</xmax><ymax>30</ymax></bndbox>
</object><object><name>bee</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>50</xmax><ymax>40</ymax></bndbox></object></annotation>
"""
YAML = "path: .\ntrain: images/train\nval: [images/train]\nnc: 2\nnames:\n  0: ant\n  1: bee\n"
LABELS = "0 0.5 0.5 0.25 0.3\n1 0.1 0.1 0.2 0.2\n1 0.1 0.1 0.2 0.1 0.2 0.3 0.1 0.3\n"


def small_picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (50, 40), "orange").save(path)


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def looked_through(folder: Path) -> None:
    """As `detr data check`, `train` and `eval` look at data; its problems are told as they tell them."""
    found = examine(open_data(folder))
    for split in found.splits:
        found.summary(split)
    if not found.ok:
        raise DataError("errors in the data")
    if {"train", "val"} <= found.splits.keys():
        assert prepare_data("data", found).fingerprint
    for split in found.splits.values():
        truth_of(split)


def coco(folder: Path, chance: random.Random) -> None:
    for i in (1, 2):
        small_picture(folder / "train" / f"{i}.png")
    put(folder / "annotations" / "instances_train.json", as_json(COCO, chance))
    looked_through(folder)


def voc(folder: Path, chance: random.Random) -> None:
    small_picture(folder / "JPEGImages" / "1.png")
    listed = chance.random() < 0.2
    put(folder / "Annotations" / "1.xml", VOC.encode() if listed else reworded(VOC, chance))
    if listed:
        put(folder / "ImageSets" / "Main" / "train.txt", reworded("1\n1 1\n1 -1\n", chance))
    looked_through(folder)


def yolo_yaml(folder: Path, chance: random.Random) -> None:
    small_picture(folder / "images" / "train" / "1.png")
    put(folder / "labels" / "train" / "1.txt", LABELS.encode())
    put(folder / "data.yaml", reworded(YAML, chance))
    looked_through(folder)


def yolo_labels(folder: Path, chance: random.Random) -> None:
    small_picture(folder / "images" / "train" / "1.png")
    put(folder / "labels" / "train" / "1.txt", reworded(LABELS, chance))
    put(folder / "data.yaml", YAML.encode())
    looked_through(folder)


def results(folder: Path, chance: random.Random) -> None:
    put(folder / "results.json", as_json(RESULTS, chance))
    read_results(folder / "results.json", np.array([1, 2]), np.array([2, 3]), ["1.png", "2.png"])


def thresholds(folder: Path, chance: random.Random) -> None:
    put(folder / "thresholds.json", as_json(THRESHOLDS, chance))
    read_thresholds(folder / "thresholds.json")


# ---- pictures ----------------------------------------------------------------------------------------------

SAVED: Mapping[str, Sequence[tuple[str, Mapping[str, Any]]]] = {
    "jpg": [("RGB", {}), ("L", {"progressive": True}), ("CMYK", {}), ("RGB", {"restart_marker_rows": 1})],
    "png": [("RGB", {}), ("RGBA", {}), ("P", {"transparency": 3}), ("1", {}), ("I;16", {}), ("LA", {})],
    "webp": [("RGB", {}), ("RGBA", {"lossless": True}), ("RGB", {"save_all": True})],
    "bmp": [("RGB", {}), ("L", {}), ("1", {}), ("P", {})],
    "tif": [("RGB", {"compression": c}) for c in (None, "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")]
    + [("1", {"compression": "group4"}), ("I;16", {}), ("RGBA", {}), ("CMYK", {}), ("P", {})],
    "gif": [("P", {}), ("P", {"save_all": True}), ("L", {"interlace": 1}), ("P", {"transparency": 0})],
}  # fmt: skip


@cache
def whole_pictures(ending: str) -> Sequence[bytes]:
    rng, files = np.random.default_rng(0), []
    pixels = Image.fromarray(rng.integers(0, 256, (24, 33, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "words"
    for mode, how in SAVED[ending]:
        image = (
            pixels.convert("I;16" if mode == "I;16" else mode)
            if mode != "I;16"
            else Image.fromarray(rng.integers(0, 65536, (24, 33), np.uint16))
        )
        more = {"append_images": [image.rotate(180)]} if "save_all" in how else {}
        told = {"exif": exif} if ending in ("jpg", "png", "webp", "tif") else {}
        file = io.BytesIO()
        image.save(file, {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending.upper()), **how, **more, **told)
        files.append(file.getvalue())
    return files


def checked(png: bytes) -> bytes:
    """The same with checksums that fit its chunks, so that what lies in them is read."""
    parts, place = [png[:8]], 8
    while place + 12 <= len(png):
        end = place + 8 + int.from_bytes(png[place : place + 4])
        if end + 4 > len(png):
            break
        parts.append(png[place:end] + zlib.crc32(png[place + 4 : end]).to_bytes(4))
        place = end + 4
    return b"".join([*parts, png[place:]])


def picture(ending: str) -> Callable[[Path, random.Random], None]:
    def read(folder: Path, chance: random.Random) -> None:
        path = folder / f"a.{ending}"
        data = mutated(chance.choice(whole_pictures(ending)), chance)
        put(path, checked(data) if ending == "png" and chance.random() < 0.8 else data)
        read_header(path)
        assert open_picture(path).image.mode == "RGB"

    return read


# ---- weights and states ------------------------------------------------------------------------------------

LIGHT = {  # what a published DETR is known by
    "transformer.encoder.layers.0.self_attn.in_proj_weight": (24, 8),
    "transformer.encoder.layers.0.linear1.weight": (16, 8),
    "transformer.decoder.layers.0.norm1.weight": (8,), "backbone.0.body.layer3.5.conv3.weight": (1, 1, 1, 1),
    "query_embed.weight": (5, 8), "class_embed.weight": (4, 8), "class_embed.bias": (4,),
}  # fmt: skip
HUGGING_FACE = {
    **{f"model.encoder.layers.0.self_attn.{part}_proj.weight": (8, 8) for part in "qkv"},
    "model.encoder.layers.0.fc1.weight": (16, 8),
    "model.backbone.conv_encoder.model.layer3.5.conv3.weight": (1, 1, 1, 1), "class_labels_classifier.weight": (4, 8),
    "model.decoder.layers.0.fc1.weight": (16, 8), "model.query_position_embeddings.weight": (5, 8),
}  # fmt: skip
CONFIG = {
    "model_type": "detr", "activation_function": "relu", "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "dropout": 0.1, "dilation": False, "id2label": {"0": "N/A", "1": "cat", "2": "dog"}, "backbone_config": None,
}  # fmt: skip
PROCESSOR = {
    "do_resize": True, "do_rescale": True, "do_normalize": True, "size": {"shortest_edge": 64, "longest_edge": 96},
    "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4],
}  # fmt: skip


def zeros(shapes: Mapping[str, Sequence[int]]) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(*shape) for name, shape in shapes.items()}


@cache
def tiny() -> Checkpoint:
    """A whole model that is quick to build."""
    numbers = {"width": 8, "dim": 16, "heads": 2, "feed_forward": 16, "queries": 3, "classes": 2}
    config = architecture_of(preset("detr-tiny")).changed(
        preset("detr-tiny"), encoder_layers=1, decoder_layers=1, **numbers
    )
    torch.manual_seed(0)
    architecture = architecture_of(config)
    tensors = architecture.build(config).state_dict()
    sized = architecture.preprocessing.with_size(32, 64)
    return Checkpoint("tiny", config, tensors, classes_by_index(2), sized, architecture.loss)


def safetensors(tensors: Mapping[str, torch.Tensor], header: Mapping[str, str] | None = None) -> bytes:
    """A file that is the same each time: the library shuffles its header."""
    return in_order(save(dict(tensors), dict(header or {})))


def used(source: Path) -> None:
    """As `detr predict` uses weights."""
    Detector(load_checkpoint(str(source)), "cpu").predict(Image.new("RGB", (40, 30), "grey"), threshold=0)


def pth(zipped: bool) -> Callable[[Path, random.Random], None]:
    def read(folder: Path, chance: random.Random) -> None:
        args = argparse.Namespace(nheads=4, dropout=0.1, dilation=False)
        content: dict[Any, Any] = {"model": zeros(LIGHT), "args": args, "epoch": 3}
        if chance.random() < 0.4:
            odd(content, args, chance)
            data = pickled(content, zipped=zipped)
        else:
            data = mutated(pickled(content, zipped=zipped), chance)
        put(folder / "w.pth", data)
        used(folder / "w.pth")

    return read


def odd(content: dict[Any, Any], args: argparse.Namespace, chance: random.Random) -> None:
    """Tensors of another kind or shape, other keys, other arguments."""
    model = content["model"]
    name = chance.choice(list(model))
    way = chance.randrange(8)
    if way == 0:
        model[name] = torch.zeros(chance.choices((0, 1, 3, 8), k=chance.randrange(4)))
    elif way == 1:
        model[name] = model[name].to(chance.choice((torch.float16, torch.int8, torch.complex64, torch.float8_e5m2)))
    elif way == 2:
        model[name] = chance.choice((model[name].to_sparse(), model[name].to("meta")))
    elif way == 3:
        model[name] = torch.zeros(1).expand(10 ** chance.randrange(12), 8)
    elif way == 4:
        model[chance.choice((None, 5, b"x", "", f"transformer.encoder.layers.{10**9}.x", "x" * 5000))] = torch.zeros(2)
    elif way == 5:
        setattr(args, chance.choice(("nheads", "dropout", "dilation")), chance.choice(ODD))
    elif way == 6:
        del model[name]
    else:
        content["model"] = chance.choice(ODD)


def pickled(content: object, *, zipped: bool) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def own(folder: Path, chance: random.Random) -> None:
    """Changed bytes, or another header with a checksum that fits."""
    weights = tiny()
    header, tensors = header_of(weights), dict(weights.tensors)
    if chance.random() < 0.7:
        part = chance.choice(list(header))
        if part in ("config", "classes", "preprocessing", "loss"):
            header[part] = as_json(json.loads(header[part]), chance).decode("utf-8", "replace")
        elif part != "format":
            header[part] = chance.choice(ODD_WORDS)
        header[CHECKSUM] = checksum(header, tensors)
        data = safetensors(tensors, header)
    else:
        header[CHECKSUM] = checksum(header, tensors)
        data = mutated(safetensors(tensors, header), chance)
    put(folder / "w.safetensors", data)
    used(folder / "w.safetensors")


def hugging_face(folder: Path, chance: random.Random) -> None:
    broken = chance.choice(("config.json", "preprocessor_config.json", "model.safetensors"))
    files = {
        "config.json": json.dumps(CONFIG).encode(),
        "preprocessor_config.json": json.dumps(PROCESSOR).encode(),
        "model.safetensors": safetensors(zeros(HUGGING_FACE)),
    }
    documents = {"config.json": CONFIG, "preprocessor_config.json": PROCESSOR}
    document = documents.get(broken)
    files[broken] = mutated(files[broken], chance) if document is None else as_json(document, chance)
    for name, data in files.items():
        put(folder / name, data)
    used(folder)


def state(folder: Path, chance: random.Random) -> None:
    """Changed bytes under the old name, or other contents under the name that fits them."""
    weights = tiny()
    content = {"step": 3, "weights": header_of(weights), "model": dict(weights.tensors), "rows": [{"epoch": 1.0}]}
    path = save_state(folder, content)
    if chance.random() < 0.5:
        path.write_bytes(mutated(path.read_bytes(), chance))
    else:
        path.unlink()
        save_state(folder, {**content, "weights": misdocumented(header_of(weights), chance)})
    found, _ = load_state(folder)
    header = found["weights"]
    if not isinstance(header, dict):
        raise DataError("no header")
    from_header(header, found["model"], "the state")


# ---- cases -------------------------------------------------------------------------------------------------

Kind = Callable[[Path, random.Random], None]
# What is read, under the option that says how many cases there are, and the exit codes that may be told.
KINDS: Mapping[str, tuple[str, Kind, frozenset[int]]] = {
    **{
        kind.__name__: ("annotations", kind, frozenset({3}))
        for kind in (coco, voc, yolo_yaml, yolo_labels, results, thresholds)
    },
    **{ending: ("pictures", picture(ending), frozenset({3})) for ending in SAVED},
    # Numbers of a file without a checksum may be so large that what is computed from them is not finite: 5.
    "pth": ("weights", pth(True), frozenset({4, 5})),
    "pth_before_zip": ("weights", pth(False), frozenset({4, 5})),
    "own": ("weights", own, frozenset({4})),
    "hugging_face": ("weights", hugging_face, frozenset({4, 5})),
    "state": ("weights", state, frozenset({3, 4})),
}


@dataclass(frozen=True)
class Case:
    """What became of a file."""

    kind: str
    number: int
    outcome: str  # "read", "told", or how it failed
    seconds: float = 0.0  # of the processor
    megabytes: float = 0.0  # the most that the process has held so far

    @property
    def failed(self) -> bool:
        """Whether it is anything else than read or told, in time and in little memory."""
        return self.outcome not in ("read", "told") or self.seconds > SECONDS or self.megabytes > MEGABYTES


def run(kind: str, number: int, seed: int, folder: Path) -> Case:
    """Make the file and read it; the same number always gives the same file."""
    _, read, codes = KINDS[kind]
    chance = random.Random(f"{seed}/{kind}/{number}")
    began, outcome = time.process_time(), "read"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", RuntimeWarning)  # numpy's, of numbers that we should not have computed with
        try:
            read(folder, chance)
        except Exception as error:
            told = to_user_error(error)
            if told is not None and told.exit_code in codes and len(str(told).splitlines()) <= 3:
                outcome = "told"
            else:
                outcome = f"{type(error).__name__}: {error!s:.150}\n{traceback.format_exc(limit=-3)}"
    return Case(kind, number, outcome, time.process_time() - began, most_megabytes())


def most_megabytes() -> float:
    if sys.platform == "win32":
        return 0.0
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def serve(pipe: Any, seed: int) -> None:
    """In a process of its own: a case for each kind and number that comes."""
    torch.set_num_threads(1)
    while (asked := pipe.recv()) is not None:
        with tempfile.TemporaryDirectory() as place:
            pipe.send(run(*asked, seed, Path(place)))


class Watched:
    """A process that runs cases, and is ended and begun anew when it does not answer."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._begin()

    def _begin(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, self.seed), daemon=True)
        self.process.start()
        theirs.close()

    def run(self, kind: str, number: int) -> Case:
        """One case, whatever it does to the process."""
        try:
            self.pipe.send((kind, number))
            if self.pipe.poll(PATIENCE):
                done: Case = self.pipe.recv()
            else:
                done = Case(kind, number, f"no answer in {PATIENCE:.0f} s")
        except (EOFError, OSError):
            done = Case(kind, number, "the process came to an end")
        if done.failed:  # a new process, so that what it has left behind is not held against others
            self.process.kill()
            self._begin()
        return done

    def end(self) -> None:
        """Nothing more comes."""
        self.pipe.send(None)
        self.process.join()


def main() -> None:
    """Run the cases of all kinds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, count in (("annotations", 20_000), ("pictures", 5_000), ("weights", 5_000)):
        parser.add_argument(f"--{name}", type=int, default=count, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", metavar="KIND:NUMBER")
    parser.add_argument("--keep", type=Path, metavar="DIR")
    asked = parser.parse_args()
    if asked.only:
        kind, _, number = asked.only.partition(":")
        folder = asked.keep or Path(tempfile.mkdtemp())
        print(run(kind, int(number), asked.seed, folder), f"the files are in {folder}")
        return

    began, cases = time.perf_counter(), list(planned(asked))
    workers = [Watched(asked.seed) for _ in range(asked.processes)]
    with ThreadPoolExecutor(len(workers)) as pool:
        shares = pool.map(lambda i: [workers[i].run(*one) for one in cases[i :: len(workers)]], range(len(workers)))
        done = [case for share in shares for case in share]
    for worker in workers:
        worker.end()
    report(done, time.perf_counter() - began)
    for case in done:
        if case.failed:
            print(f"\n{case.kind}:{case.number} {case.seconds:.1f} s, {case.megabytes:.0f} MB: {case.outcome}")
            if asked.keep:
                place = asked.keep / f"{case.kind}-{case.number}"
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir(parents=True)
                run(case.kind, case.number, asked.seed, place)
    sys.exit(any(case.failed for case in done))


def planned(asked: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """The numbers of each kind; an option's kinds share its cases."""
    for option in ("annotations", "pictures", "weights"):
        kinds = [kind for kind, (group, *_) in KINDS.items() if group == option]
        for i in range(getattr(asked, option)):
            yield kinds[i % len(kinds)], i // len(kinds)


def report(done: Sequence[Case], seconds: float) -> None:
    """A table and one JSON line."""
    print(f"{'':16}{'cases':>8}{'read':>8}{'told':>8}{'failed':>8}{'most s':>8}{'most MB':>9}")
    rows = []
    for kind in KINDS:
        mine = [case for case in done if case.kind == kind]
        if not mine:
            continue
        outcomes = Counter("failed" if case.failed else case.outcome for case in mine)
        row = {
            "kind": kind,
            "cases": len(mine),
            **{name: outcomes[name] for name in ("read", "told", "failed")},
            "most_seconds": round(max(case.seconds for case in mine), 2),
            "most_megabytes": round(max(case.megabytes for case in mine)),
        }
        rows.append(row)
        _, *numbers = row.values()
        print(f"{kind:16}" + "".join(f"{value:>{w}}" for value, w in zip(numbers, (8, 8, 8, 8, 8, 9), strict=True)))
    failed = [asdict(case) for case in done if case.failed]
    print(json.dumps({"rows": rows, "seconds": round(seconds), "failed": failed}))


if __name__ == "__main__":
    main()
