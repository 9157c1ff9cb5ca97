"""Fuzzing: mutate valid files of every format and check that reading them fails cleanly.

    pip install . && python examples/fuzz.py [--annotations 20000] [--images 5000] [--weights 5000] [--seed 0]

Each case is read as the commands read it, in a monitored process. A case passes if the file is read, or reported as a
user error with the right exit code. It fails if it raises another exception, crashes, takes more than 5 seconds or
more than 1 GB. `--only coco:17` repeats a case, and `--keep DIR` keeps the files of failed cases. Prints the failures,
a table, and one JSON line.
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
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from timing import show

from detrcli.architectures import preset
from detrcli.checkpoints.checkpoint import Checkpoint, classes_by_index
from detrcli.checkpoints.formats.header import CHECKSUM, checksum, from_header, header_of
from detrcli.checkpoints.formats.native import with_sorted_header
from detrcli.checkpoints.load import load_checkpoint
from detrcli.data.examine import examine
from detrcli.data.image_files import read_header
from detrcli.data.images import open_image
from detrcli.data.source import open_data
from detrcli.errors import DataError, to_user_error
from detrcli.evaluation.results import read_results
from detrcli.evaluation.thresholds import read_thresholds
from detrcli.evaluation.truth import truth_of
from detrcli.inference.detector import Detector
from detrcli.training.setup import prepare_data
from detrcli.training.state import load_state, save_state

SECONDS, MEGABYTES = 5.0, 1000
TIMEOUT = 60.0  # seconds of wall-clock time; other processes may use the processor

# Unusual values.
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 2**31, 2**63, -(2**63), 10**30, 1e308, -1e308, 5e-324, float("nan"),
    float("inf"), -float("inf"), "", "0", "-1", "1e999", "nan", "null", "../../x", "/etc/passwd", "a\0b", "\ud800",
    "\u202e\u200b", "x" * 3000, "9" * 5000, [], {}, [[]], [None], {"": None}, [0] * 5, "C:\\x", "http://x/y",
)  # fmt: skip
ODD_WORDS = (
    "", "-1", "1e999", "nan", "9" * 400, "9" * 5000, "\0", "&x;", "]]>", "<a>", "{", "[" * 50, "../..", "é", "\t",
)  # fmt: skip


# ---- mutations ---------------------------------------------------------------------------------------------


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Change, remove, repeat or insert some bytes."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8, 30))):
        start, length = rng.randrange(len(changed) + 1), rng.choice((1, 1, 2, 4, 16, 200))
        way = rng.randrange(7)
        if way == 0 and changed:
            changed[min(start, len(changed) - 1)] ^= 1 << rng.randrange(8)
        elif way == 1:
            changed[start : start + length] = rng.randbytes(length)
        elif way == 2:
            del changed[start : start + length]
        elif way == 3:
            changed[start:start] = changed[start : start + length]
        elif way == 4:
            changed[start : start + 4] = rng.choice((b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0" * 4, b"\x80\0\0\0"))
        elif way == 5:
            del changed[start:]
        else:
            source = rng.randrange(len(changed) + 1)
            changed[start : start + length] = changed[source : source + length]
    return bytes(changed)


def reworded(text: str, rng: random.Random) -> bytes:
    """Replace some parts of a text, and sometimes its bytes."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        start = rng.randrange(len(text) + 1)
        text = text[:start] + rng.choice(ODD_WORDS) + text[start + rng.choice((0, 1, 3, 10)) :]
    data = text.encode("utf-8", "surrogatepass")
    return mutated(data, rng) if rng.random() < 0.3 else data


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container of a document with each of its keys."""
    for key in list(document) if isinstance(document, dict) else range(len(document)):
        yield document, key
        if isinstance(document[key], dict | list):
            yield from places(document[key])


def misdocumented(document: Any, rng: random.Random) -> Any:
    """Replace, remove or repeat values of a document of lists and dicts."""
    document = deepcopy(document)
    for _ in range(rng.choice((1, 1, 2, 4))):
        entries = list(places(document))
        if not entries:
            break
        parent, key = rng.choice(entries)
        way = rng.randrange(6)
        if way == 0:
            del parent[key]
        elif way == 1 and isinstance(parent, list):
            parent += [deepcopy(parent[key]) for _ in range(rng.choice((1, 50)))]
        elif way == 2:
            source, source_key = rng.choice(entries)
            parent[key] = deepcopy(source[source_key])
        else:
            parent[key] = deepcopy(rng.choice(ODD))
    return document


def as_json(document: Any, rng: random.Random) -> bytes:
    """Return a document with unusual values, or its text with unusual words."""
    if rng.random() < 0.6:
        return json.dumps(misdocumented(document, rng)).encode()
    return reworded(json.dumps(document), rng)


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


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def put_image(path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (50, 40), "orange").save(file, "PNG")
    put(path, file.getvalue())


def check_data(folder: Path) -> None:
    """Examine a dataset as `detr data check`, `train` and `eval` do."""
    examined = examine(open_data(folder))
    for split in examined.splits:
        examined.summary(split)
    if not examined.ok:
        raise DataError("errors in the data")
    if {"train", "val"} <= examined.splits.keys():
        assert prepare_data("data", examined).fingerprint
    for split in examined.splits.values():
        truth_of(split)


def coco(folder: Path, rng: random.Random) -> None:
    for i in (1, 2):
        put_image(folder / "train" / f"{i}.png")
    put(folder / "annotations" / "instances_train.json", as_json(COCO, rng))
    check_data(folder)


def voc(folder: Path, rng: random.Random) -> None:
    put_image(folder / "JPEGImages" / "1.png")
    listed = rng.random() < 0.2
    put(folder / "Annotations" / "1.xml", VOC.encode() if listed else reworded(VOC, rng))
    if listed:
        put(folder / "ImageSets" / "Main" / "train.txt", reworded("1\n1 1\n1 -1\n", rng))
    check_data(folder)


def yolo(broken: str, folder: Path, rng: random.Random) -> None:
    put_image(folder / "images" / "train" / "1.png")
    for file, text in (("labels/train/1.txt", LABELS), ("data.yaml", YAML)):
        put(folder / file, reworded(text, rng) if file == broken else text.encode())
    check_data(folder)


def results(folder: Path, rng: random.Random) -> None:
    put(folder / "results.json", as_json(RESULTS, rng))
    read_results(folder / "results.json", np.array([1, 2]), np.array([2, 3]), ["1.png", "2.png"])


def thresholds(folder: Path, rng: random.Random) -> None:
    put(folder / "thresholds.json", as_json(THRESHOLDS, rng))
    read_thresholds(folder / "thresholds.json")


# ---- images ------------------------------------------------------------------------------------------------

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
def valid_images(ending: str) -> Sequence[bytes]:
    rng, files = np.random.default_rng(0), []
    pixels = Image.fromarray(rng.integers(0, 256, (24, 33, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "words"
    for mode, options in SAVED[ending]:
        if mode == "I;16":
            frame = Image.fromarray(rng.integers(0, 65536, (24, 33), np.uint16))
        else:
            frame = pixels.convert(mode)
        frames = {"append_images": [frame.rotate(180)]} if "save_all" in options else {}
        metadata = {"exif": exif} if ending in ("jpg", "png", "webp", "tif") else {}
        file = io.BytesIO()
        frame.save(file, {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending.upper()), **options, **frames, **metadata)
        files.append(file.getvalue())
    return files


def with_checksums(png: bytes) -> bytes:
    """Correct the checksums of the chunks of a PNG, so that their content is read."""
    parts, start = [png[:8]], 8
    while start + 12 <= len(png):
        end = start + 8 + int.from_bytes(png[start : start + 4])
        if end + 4 > len(png):
            break
        parts.append(png[start:end] + zlib.crc32(png[start + 4 : end]).to_bytes(4))
        start = end + 4
    return b"".join([*parts, png[start:]])


def image(ending: str, folder: Path, rng: random.Random) -> None:
    path = folder / f"a.{ending}"
    data = mutated(rng.choice(valid_images(ending)), rng)
    put(path, with_checksums(data) if ending == "png" and rng.random() < 0.8 else data)
    read_header(path)
    assert open_image(path).image.mode == "RGB"


# ---- weights and training states ---------------------------------------------------------------------------

PUBLISHED = {  # the tensors by which a published DETR is recognized
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
    """Return a complete model that is quick to build."""
    numbers = {"width": 8, "dim": 16, "heads": 2, "feed_forward": 16, "queries": 3, "classes": 2}
    architecture, config = preset("detr-tiny")
    config = architecture.changed(config, encoder_layers=1, decoder_layers=1, **numbers)
    torch.manual_seed(0)
    tensors = architecture.build(config).state_dict()
    checkpoint = Checkpoint(
        "tiny", architecture, config, tensors, classes_by_index(2), architecture.preprocessing, architecture.loss
    )
    return checkpoint.resized(32, 64)


def safetensors(tensors: Mapping[str, torch.Tensor], header: Mapping[str, str] | None = None) -> bytes:
    """Return a deterministic file; the library does not order its header."""
    return with_sorted_header(save(dict(tensors), dict(header or {})))


def predict_with(source: Path) -> None:
    """Load weights and predict, as `detr predict` does."""
    Detector(load_checkpoint(str(source)), "cpu").predict(Image.new("RGB", (40, 30), "gray"), threshold=0)


def pth(zipped: bool, folder: Path, rng: random.Random) -> None:
    """A published checkpoint with mutated content, or mutated bytes."""
    args = argparse.Namespace(nheads=4, dropout=0.1, dilation=False)
    content: dict[Any, Any] = {"model": zeros(PUBLISHED), "args": args, "epoch": 3}
    valid_file = rng.random() < 0.4
    if valid_file:
        mutate_content(content, args, rng)
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    put(folder / "w.pth", file.getvalue() if valid_file else mutated(file.getvalue(), rng))
    predict_with(folder / "w.pth")


def mutate_content(content: dict[Any, Any], args: argparse.Namespace, rng: random.Random) -> None:
    """Change the dtype, shape or name of a tensor, or an argument."""
    model = content["model"]
    name = rng.choice(list(model))
    way = rng.randrange(8)
    if way == 0:
        model[name] = torch.zeros(rng.choices((0, 1, 3, 8), k=rng.randrange(4)))
    elif way == 1:
        model[name] = model[name].to(rng.choice((torch.float16, torch.int8, torch.complex64, torch.float8_e5m2)))
    elif way == 2:
        model[name] = rng.choice((model[name].to_sparse(), model[name].to("meta")))
    elif way == 3:
        model[name] = torch.zeros(1).expand(10 ** rng.randrange(12), 8)
    elif way == 4:
        model[rng.choice((None, 5, b"x", "", f"transformer.encoder.layers.{10**9}.x", "x" * 5000))] = torch.zeros(2)
    elif way == 5:
        setattr(args, rng.choice(("nheads", "dropout", "dilation")), rng.choice(ODD))
    elif way == 6:
        del model[name]
    else:
        content["model"] = rng.choice(ODD)


def own(folder: Path, rng: random.Random) -> None:
    """Our own format: mutated bytes, or a mutated header with a correct checksum."""
    weights = tiny()
    header, tensors = header_of(weights), dict(weights.tensors)
    valid_file = rng.random() < 0.7
    if valid_file:
        part = rng.choice(list(header))
        if part in ("config", "classes", "preprocessing", "loss"):
            header[part] = as_json(json.loads(header[part]), rng).decode("utf-8", "replace")
        elif part != "format":
            header[part] = rng.choice(ODD_WORDS)
    header[CHECKSUM] = checksum(header, tensors)
    data = safetensors(tensors, header)
    put(folder / "w.safetensors", data if valid_file else mutated(data, rng))
    predict_with(folder / "w.safetensors")


def hugging_face(folder: Path, rng: random.Random) -> None:
    documents = {"config.json": CONFIG, "preprocessor_config.json": PROCESSOR}
    files = {name: json.dumps(document).encode() for name, document in documents.items()}
    files["model.safetensors"] = safetensors(zeros(HUGGING_FACE))
    broken = rng.choice(list(files))
    files[broken] = as_json(documents[broken], rng) if broken in documents else mutated(files[broken], rng)
    for name, data in files.items():
        put(folder / name, data)
    predict_with(folder)


def state(folder: Path, rng: random.Random) -> None:
    """A training state: mutated bytes with the old hash in the name, or a mutated header with the right hash."""
    weights = tiny()
    content = {"step": 3, "weights": header_of(weights), "model": dict(weights.tensors), "rows": [{"epoch": 1.0}]}
    path = save_state(folder, content)
    if rng.random() < 0.5:
        path.write_bytes(mutated(path.read_bytes(), rng))
    else:
        path.unlink()
        save_state(folder, {**content, "weights": misdocumented(header_of(weights), rng)})
    loaded, _ = load_state(folder)
    header = loaded["weights"]
    if not isinstance(header, dict):
        raise DataError("no header")
    from_header(header, loaded["model"], "the state")


# ---- cases -------------------------------------------------------------------------------------------------

Kind = Callable[[Path, random.Random], None]
# The option with the number of cases, the function that writes and reads a file, and the allowed exit codes.
KINDS: Mapping[str, tuple[str, Kind, frozenset[int]]] = {
    "coco": ("annotations", coco, frozenset({3})),
    "voc": ("annotations", voc, frozenset({3})),
    "yolo_yaml": ("annotations", partial(yolo, "data.yaml"), frozenset({3})),
    "yolo_labels": ("annotations", partial(yolo, "labels/train/1.txt"), frozenset({3})),
    "results": ("annotations", results, frozenset({3})),
    "thresholds": ("annotations", thresholds, frozenset({3})),
    **{ending: ("images", partial(image, ending), frozenset({3})) for ending in SAVED},
    # Without a checksum, numbers may be so large that results are not finite: exit code 5.
    "pth": ("weights", partial(pth, True), frozenset({4, 5})),
    "pth_before_zip": ("weights", partial(pth, False), frozenset({4, 5})),
    "own": ("weights", own, frozenset({4})),
    "hugging_face": ("weights", hugging_face, frozenset({4, 5})),
    "state": ("weights", state, frozenset({3, 4})),
}


@dataclass(frozen=True)
class Case:
    """The result for a file."""

    kind: str
    number: int
    outcome: str  # "read", "rejected" (a user error), or the failure
    seconds: float = 0.0  # processor time
    megabytes: float = 0.0  # peak of the process so far

    @property
    def failed(self) -> bool:
        return self.outcome not in ("read", "rejected") or self.seconds > SECONDS or self.megabytes > MEGABYTES


def run(kind: str, number: int, seed: int, folder: Path) -> Case:
    """Write a file and read it; the same number always gives the same file."""
    _, read, codes = KINDS[kind]
    rng = random.Random(f"{seed}/{kind}/{number}")
    start, outcome = time.process_time(), "read"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", RuntimeWarning)  # numpy's, from numbers that should have been rejected
        try:
            read(folder, rng)
        except Exception as error:
            user_error = to_user_error(error)
            if user_error is not None and user_error.exit_code in codes and len(str(user_error).splitlines()) <= 3:
                outcome = "rejected"
            else:
                outcome = f"{type(error).__name__}: {error!s:.150}\n{traceback.format_exc(limit=-3)}"
    return Case(kind, number, outcome, time.process_time() - start, peak_megabytes())


def peak_megabytes() -> float:
    if sys.platform == "win32":
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def serve(pipe: Any, seed: int) -> None:
    """Run the cases received from a pipe; the main function of a worker process."""
    torch.set_num_threads(1)
    while (case := pipe.recv()) is not None:
        with tempfile.TemporaryDirectory() as folder:
            pipe.send(run(*case, seed, Path(folder)))


class Worker:
    """A process that runs cases, and is restarted after a failure."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, self.seed), daemon=True)
        self.process.start()
        theirs.close()

    def run(self, kind: str, number: int) -> Case:
        try:
            self.pipe.send((kind, number))
            if self.pipe.poll(TIMEOUT):
                case: Case = self.pipe.recv()
            else:
                case = Case(kind, number, f"no answer in {TIMEOUT:.0f} s")
        except (EOFError, OSError):
            case = Case(kind, number, "the process ended")
        if case.failed:  # a new process, so that the failure does not affect other cases
            self.process.kill()
            self._start()
        return case

    def end(self) -> None:
        self.pipe.send(None)
        self.process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, count in (("annotations", 20_000), ("images", 5_000), ("weights", 5_000)):
        parser.add_argument(f"--{name}", type=int, default=count, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", metavar="KIND:NUMBER")
    parser.add_argument("--keep", type=Path, metavar="DIR")
    args = parser.parse_args()
    if args.only:
        kind, _, number = args.only.partition(":")
        folder = args.keep or Path(tempfile.mkdtemp())
        print(run(kind, int(number), args.seed, folder), f"files in {folder}")
        return

    start, cases = time.perf_counter(), list(planned(args))
    workers = [Worker(args.seed) for _ in range(args.processes)]
    with ThreadPoolExecutor(len(workers)) as pool:
        shares = pool.map(lambda i: [workers[i].run(*case) for case in cases[i :: len(workers)]], range(len(workers)))
        done = [case for share in shares for case in share]
    for worker in workers:
        worker.end()
    seconds = time.perf_counter() - start
    for case in done:
        if case.failed:
            print(f"\n{case.kind}:{case.number} {case.seconds:.1f} s, {case.megabytes:.0f} MB: {case.outcome}")
            if args.keep:
                folder = args.keep / f"{case.kind}-{case.number}"
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                run(case.kind, case.number, args.seed, folder)
    report(done, seconds)
    sys.exit(any(case.failed for case in done))


def planned(args: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Yield kind and number of each case; the kinds of an option share its cases."""
    for option in ("annotations", "images", "weights"):
        kinds = [kind for kind, (group, *_) in KINDS.items() if group == option]
        for i in range(getattr(args, option)):
            yield kinds[i % len(kinds)], i // len(kinds)


def report(done: Sequence[Case], seconds: float) -> None:
    """Print a table and one JSON line."""
    rows = []
    for kind in KINDS:
        results = [case for case in done if case.kind == kind]
        if not results:
            continue
        outcomes = Counter("failed" if case.failed else case.outcome for case in results)
        rows.append(
            {
                "kind": kind,
                "cases": len(results),
                **{name: outcomes[name] for name in ("read", "rejected", "failed")},
                "max seconds": round(max(case.seconds for case in results), 2),
                "peak MB": round(max(case.megabytes for case in results)),
            }
        )
    show(rows, seconds=round(seconds), failed=[asdict(case) for case in done if case.failed])


if __name__ == "__main__":
    main()
