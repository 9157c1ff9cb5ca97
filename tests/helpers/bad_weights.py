"""Bad weights, checkpoints, addresses and states."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bad import Bad, Make, at, both, noise, nothing
from safetensors.torch import save_file
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


def flipped(data: bytes) -> bytes:
    return data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]


def config(text: str) -> Make:
    return at("hf/config.json", text)


def run_with(name: str, content: bytes) -> Make:
    return at(f"run/state/{name}", content)


PTH, OWN, HF = weights_from("w.pth"), weights_from("w.safetensors"), weights_from("hf")
KINDS: dict[str, Bad] = {
    "an unknown name of weights": Bad(nothing, weights_from("detr-r5"), 4, "detr-r5", "Did you mean detr-r50"),
    "weights of 300 letters": Bad(nothing, weights_from("a" * 300), 4, "aaa", "detr models"),
    "an empty pickle": Bad(at("w.pth", ""), PTH, 4, "w.pth"),
    "two bytes of a pickle": Bad(at("w.pth", b"\x80\x02."), PTH, 4, "w.pth"),
    "a text as weights": Bad(at("w.pth", "words"), PTH, 4, "w.pth"),
    "a pickle that runs a command": Bad(saved({"model": {}, "x": Evil()}), PTH, 4, "w.pth"),
    "a pickle of paths": Bad(saved({"model": {}, "x": Path("a")}), PTH, 4, "pathlib"),
    "a list as weights": Bad(saved([1]), PTH, 4, "w.pth"),
    "weights of another model": Bad(saved({"conv.weight": torch.zeros(1)}), PTH, 4, "w.pth"),
    "tensors without names": Bad(saved({0: torch.zeros(1)}), PTH, 4, "w.pth"),
    "a sparse tensor": Bad(saved({"class_embed.weight": torch.eye(3).to_sparse()}), PTH, 4, "class_embed.weight"),
    "a tensor without numbers": Bad(
        saved({"class_embed.weight": torch.zeros(3, device="meta")}), PTH, 4, "class_embed.weight"
    ),
    "a tensor of a billion equal rows": Bad(
        saved({"class_embed.weight": torch.zeros(1, 8).expand(10**9, 8)}), PTH, 4, "w.pth"
    ),
    "complex numbers": Bad(saved({"class_embed.weight": torch.zeros(3, dtype=torch.complex64)}), PTH, 4, "complex64"),
    "a mask head alone": Bad(saved({"mask_head.lay1.weight": torch.zeros(1)}), PTH, 4, "w.pth"),
    "weights that are another model than is said": Bad(
        own_file(), weights_from("w.safetensors", "--model", "detr-r50"), 2, "w.safetensors", "detr-tiny"
    ),
    "an unknown model": Bad(
        own_file(), weights_from("w.safetensors", "--model", "detr-r9"), 2, "--model detr-r9", "detr-r50"
    ),
    "a flipped bit": Bad(own_file(flipped), OWN, 4, "w.safetensors"),
    "half of our own file": Bad(own_file(lambda data: data[:9000]), OWN, 4, "w.safetensors"),
    "a safetensors file of others": Bad(
        lambda root: save_file({"a": torch.zeros(1)}, root / "w.safetensors"), OWN, 4, "w.safetensors"
    ),
    "a file of a later version": Bad(own_file(format="detrcli/9"), OWN, 4, "w.safetensors"),
    "a file of an unknown member": Bad(own_file(variant="dino-9"), OWN, 4, "w.safetensors"),
    "a header nested without end": Bad(own_file(config="[" * 100_000), OWN, 4, "w.safetensors"),
    "a header of a million layers": Bad(own_file(config={"encoder_layers": 10**6}), OWN, 4, "encoder_layers"),
    "a header of too few classes": Bad(own_file(classes={"ids": [1], "names": ["a"]}), OWN, 4, "w.safetensors"),
    "a header whose names are no list": Bad(own_file(classes={"ids": [1], "names": "a"}), OWN, 4, "w.safetensors"),
    "a mean of NaN": Bad(
        own_file(preprocessing=preprocessing(64, [float("nan")] * 3, [1, 1, 1])), OWN, 4, "w.safetensors"
    ),
    "a deviation of 0": Bad(own_file(preprocessing=preprocessing(64, [0, 0, 0], [0, 1, 1])), OWN, 4, "w.safetensors"),
    "inputs of 900 megapixels": Bad(
        own_file(preprocessing=preprocessing(30_000, [0, 0, 0], [1, 1, 1])), OWN, 4, "w.safetensors"
    ),
    "a folder that is not weights": Bad(lambda root: (root / "hf").mkdir(), HF, 4, "hf", "config.json"),
    "a config.json that ends too early": Bad(config("{"), HF, 4, "hf"),
    "a config.json nested without end": Bad(config("[" * 100_000), HF, 4, "hf"),
    "a config.json of an unknown model": Bad(config('{"model_type": "clip"}'), HF, 4, "clip"),
    "a config.json without tensors": Bad(config('{"model_type": "detr"}'), HF, 4, "hf"),
    "a web address without a hash": Bad(
        nothing, weights_from("https://a.org/w.pth"), 2, "https://a.org/w.pth", "--sha"
    ),
    "a web address that is invalid": Bad(
        nothing, weights_from("http://[::1/w-f83755dc.pth"), 4, "http://[::1/w-f83755dc.pth"
    ),
    "a host of 300 letters": Bad(nothing, weights_from(f"http://{'a' * 300}/w-f83755dc.pth"), 4, "http://aaa"),
    "a password in an address": Bad(
        nothing, weights_from("http://me:word@a.org/w-f83755dc.pth"), 4, "a.org/w-f83755dc.pth"
    ),
    "a hash that is invalid": Bad(own_file(), weights_from("w.safetensors", "--sha256", "abc"), 2, "--sha256 abc"),
    "a hash of other contents": Bad(
        own_file(), weights_from("w.safetensors", "--sha256", "0" * 64), 4, "w.safetensors", "0" * 64
    ),
    "an unknown detector of torchvision": Bad(
        nothing, weights_from("torchvision:yolo"), 2, "torchvision:yolo", "fasterrcnn_resnet50_fpn"
    ),
    "a file of torchvision that does not exist": Bad(
        nothing, weights_from("torchvision:fcos_resnet50_fpn=w.pth"), 4, "w.pth"
    ),
    "an export where a model is needed": Bad(at("w.onnx", "x"), weights_from("w.onnx"), 2, "w.onnx"),
    "an export that is invalid": Bad(
        both(noise("a.png"), at("w.onnx", "x")),
        ("predict", "a.png", "--weights", "w.onnx", "--no-images"),
        4,
        "w.onnx",
        "detr export",
    ),
    "a run without a state": Bad(lambda root: (root / "run").mkdir(), ("train", "--resume", "run"), 4, "run"),
    "a run that has not begun": Bad(
        at("run/config.toml", "# detr train data\n"), ("train", "--resume", "run"), 4, "run", "--out"
    ),
    "a state that is damaged": Bad(run_with(f"00000001-{'0' * 16}.pt", b"x"), ("train", "--resume", "run"), 4, "run"),
    "a state that is not state": Bad(
        run_with(f"00000001-{hashlib.sha256(b'x').hexdigest()[:16]}.pt", b"x"), ("train", "--resume", "run"), 4, "run"
    ),
}
