"""Bad weights, checkpoints, addresses and states."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bad import PREDICT, Bad, Make, at, both, noise, nothing
from safetensors.torch import save, save_file
from small import TINY, small_weights

from detrcli.checkpoints.formats.header import CHECKSUM, checksum, header_of


def weights_from(source: Any, *more: Any) -> tuple[Any, ...]:
    return ("export", source, "--format", "onnx", "--out", "out.onnx", *more)


def saved(content: object) -> Make:
    return lambda root: torch.save(content, root / "w.pth")


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch was-here",)


def preprocessing(size: int, mean: list[float], std: list[float]) -> dict[str, Any]:
    """The entry of a file's header."""
    resize = {"kind": "shortest-edge", "size": size, "max_size": size + 35, "divisor": 1}
    return {"resize": resize, "mean": mean, "std": std}


def own_file(change: Callable[[bytes], bytes] = bytes, **parts: Any) -> Make:
    """With other parts in its header, and a checksum that fits them; then its bytes changed."""

    def make(root: Path) -> None:
        checkpoint = small_weights(TINY)
        header = header_of(checkpoint)
        header |= {part: value if isinstance(value, str) else json.dumps(value) for part, value in parts.items()}
        header[CHECKSUM] = checksum(header, checkpoint.tensors)
        save_file(dict(checkpoint.tensors), root / "w.safetensors", header)
        (root / "w.safetensors").write_bytes(change((root / "w.safetensors").read_bytes()))

    return make


def own(item: str = "w.safetensors", change: Callable[[bytes], bytes] = bytes, **parts: Any) -> Bad:
    return Bad(own_file(change, **parts), weights_from("w.safetensors"), 4, item)


def with_option(code: int, item: str, remedy: str, *options: str) -> Bad:
    """A good file, with options that do not fit it."""
    return Bad(own_file(), weights_from("w.safetensors", *options), code, item, remedy)


def named(source: str, item: str, remedy: str = "", code: int = 4) -> Bad:
    """A name or an address of weights that do not exist."""
    return Bad(nothing, weights_from(source), code, item, remedy)


def resumed(make: Make, remedy: str = "") -> Bad:
    return Bad(make, ("train", "--resume", "run"), 4, "run", remedy)


def flipped(data: bytes) -> bytes:
    return data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]


def config(text: str, item: str = "hf") -> Bad:
    """A config.json of transformers."""
    return Bad(at("hf/config.json", text), HF, 4, item)


HEAD, PTH, HF = "class_embed.weight", weights_from("w.pth"), weights_from("hf")
KINDS: dict[str, Bad] = {
    "an unknown name of weights": named("detr-r5", "detr-r5", "Did you mean detr-r50"),
    "weights of 300 letters": named("a" * 300, "aaa", "detr models"),
    "an empty pickle": Bad(at("w.pth", ""), PTH, 4, "w.pth"),
    "two bytes of a pickle": Bad(at("w.pth", b"\x80\x02."), PTH, 4, "w.pth"),
    "a text as weights": Bad(at("w.pth", "words"), PTH, 4, "w.pth"),
    "a pickle that runs a command": Bad(saved({"model": {}, "x": Evil()}), PTH, 4, "w.pth"),
    "a pickle of paths": Bad(saved({"model": {}, "x": Path("a")}), PTH, 4, "pathlib"),
    "a list as weights": Bad(saved([1]), PTH, 4, "w.pth"),
    "weights of another model": Bad(saved({"conv.weight": torch.zeros(1)}), PTH, 4, "w.pth"),
    "tensors without names": Bad(saved({0: torch.zeros(1)}), PTH, 4, "w.pth"),
    "a sparse tensor": Bad(saved({HEAD: torch.eye(3).to_sparse()}), PTH, 4, HEAD),
    "a tensor without numbers": Bad(saved({HEAD: torch.zeros(3, device="meta")}), PTH, 4, HEAD),
    "a tensor of a billion equal rows": Bad(saved({HEAD: torch.zeros(1, 8).expand(10**9, 8)}), PTH, 4, "w.pth"),
    "complex numbers": Bad(saved({HEAD: torch.zeros(3, dtype=torch.complex64)}), PTH, 4, "complex64"),
    "a mask head alone": Bad(saved({"mask_head.lay1.weight": torch.zeros(1)}), PTH, 4, "w.pth"),
    "weights that are another model than is said": with_option(2, "w.safetensors", "detr-tiny", "--model", "detr-r50"),
    "an unknown model": with_option(2, "--model detr-r9", "detr-r50", "--model", "detr-r9"),
    "a flipped bit": own(change=flipped),
    "half of our own file": own(change=lambda data: data[:9000]),
    "a safetensors file of others": own(change=lambda data: save({"a": torch.zeros(1)})),
    "a file of a later version": own(format="detrcli/9"),
    "a file of an unknown member": own(variant="dino-9"),
    "a header nested without end": own(config="[" * 100_000),
    "a header of a million layers": own("encoder_layers", config={"encoder_layers": 10**6}),
    "a header of too few classes": own(classes={"ids": [1], "names": ["a"]}),
    "a header whose names are no list": own(classes={"ids": [1], "names": "a"}),
    "a mean of NaN": own(preprocessing=preprocessing(64, [float("nan")] * 3, [1, 1, 1])),
    "a deviation of 0": own(preprocessing=preprocessing(64, [0, 0, 0], [0, 1, 1])),
    "inputs of 900 megapixels": own(preprocessing=preprocessing(30_000, [0, 0, 0], [1, 1, 1])),
    "a folder that is not weights": Bad(lambda root: (root / "hf").mkdir(), HF, 4, "hf", "config.json"),
    "a config.json that ends too early": config("{"),
    "a config.json nested without end": config("[" * 100_000),
    "a config.json of an unknown model": config('{"model_type": "clip"}', "clip"),
    "a config.json without tensors": config('{"model_type": "detr"}'),
    "a web address without a hash": named("https://a.org/w.pth", "https://a.org/w.pth", "--sha", code=2),
    "a web address that is invalid": named("http://[::1/w-f83755dc.pth", "http://[::1/w-f83755dc.pth"),
    "a host of 300 letters": named(f"http://{'a' * 300}/w-f83755dc.pth", "http://aaa"),
    "a password in an address": named("http://me:word@a.org/w-f83755dc.pth", "a.org/w-f83755dc.pth"),
    "a hash that is invalid": with_option(2, "--sha256 abc", "", "--sha256", "abc"),
    "a hash of other contents": with_option(4, "w.safetensors", "0" * 64, "--sha256", "0" * 64),
    "an unknown detector of torchvision": named("torchvision:yolo", "yolo", "fasterrcnn_resnet50_fpn", code=2),
    "a file of torchvision that does not exist": named("torchvision:fcos_resnet50_fpn=w.pth", "w.pth"),
    "an export where a model is needed": Bad(at("w.onnx", "x"), weights_from("w.onnx"), 2, "w.onnx"),
    "an export that is invalid": Bad(
        both(noise("a.png"), at("w.onnx", "x")), (*PREDICT[:3], "w.onnx"), 4, "w.onnx", "detr export"
    ),
    "a run without a state": resumed(lambda root: (root / "run").mkdir()),
    "a run that has not begun": resumed(at("run/config.toml", "# detr train data\n"), "--out"),
    "a state that is damaged": resumed(at(f"run/state/00000001-{'0' * 16}.pt", b"x")),
    "a state that is not state": resumed(at(f"run/state/00000001-{hashlib.sha256(b'x').hexdigest()[:16]}.pt", b"x")),
}
