"""Devices by name, and the precision of computation."""

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import torch

from detrcli.errors import MachineError, UsageError
from detrcli.messages import argument
from detrcli.system.launch import launch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def find_device(name: str) -> torch.device:
    """Return the named device; "auto" is the first available of cuda, mps and cpu.

    With several processes, "auto" and "cuda" give each process a GPU of its own.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    usable = [kind for kind, is_usable in available.items() if is_usable]
    if name == "auto":
        name = usable[0]
    if name.isdecimal():  # an index, as nvidia-smi shows it
        name = f"cuda:{name}"
    if name == "cuda" and launch().world_size > 1:
        name = f"cuda:{launch().local_rank}"
    with suppress(RuntimeError):  # raised for an unknown name
        device = torch.device(name)
        if device.type in usable and (device.type != "cuda" or (device.index or 0) < torch.cuda.device_count()):
            return device
        if device.type in available:
            raise MachineError(f"{argument('device', name)}: no such device. This machine has {', '.join(usable)}.")
    raise UsageError(f"{argument('device', name)}: must be auto, cpu, cuda, cuda:N (or N) or mps.")


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a CPU tensor to a device without waiting for the device's pending work."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Return torch's autocast to a precision; for fp32 a context that does nothing."""
    return torch.autocast(device.type, PRECISIONS[precision]) if precision != "fp32" else nullcontext()


@contextmanager
def computing_in(precision: str, device: torch.device) -> Iterator[None]:
    """Compute under autocast to the precision; operations that stay in float32 do not use TF32."""
    with autocast(precision, device), exact_float32():
        yield


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute float32 operations in float32, not in TF32 or bf16; restore the settings afterwards."""
    backends: Any = torch.backends
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    switches = (backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv)
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision


def check_precision(precision: str, device: torch.device) -> None:
    """Raise UsageError for an unknown precision; warn where this CPU only emulates bf16."""
    if precision not in PRECISIONS:
        raise UsageError(f"{argument('precision', precision)}: must be {', '.join(PRECISIONS)}.")
    if precision == "bf16" and device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        if capabilities and not any("bf16" in name and usable for name, usable in capabilities.items()):
            warnings.warn("This CPU does not compute in bf16; emulating it is slower than fp32.", stacklevel=3)
