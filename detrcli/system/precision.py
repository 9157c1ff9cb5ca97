"""The numbers that a network computes in: one context for training and for inference."""

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from detrcli.errors import UsageError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Compute in these numbers where that is safe; float32 stays as it is."""
    return torch.autocast(device.type, PRECISIONS[precision]) if precision != "fp32" else nullcontext()


@contextmanager
def computing_in(precision: str, device: torch.device) -> Iterator[None]:
    """Compute in these numbers on this device, what is float32 exactly, and afterwards as before."""
    with autocast(precision, device), exact_float32():
        yield


@contextmanager
def exact_float32() -> Iterator[None]:
    """Float32 that is float32, without the ten bits of TF32 or the eight of bf16, and afterwards as before."""
    cudnn: Any = torch.backends.cudnn
    mkldnn: Any = torch.backends.mkldnn
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv)
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision


def check_precision(precision: str, device: torch.device) -> None:
    """A UsageError for a precision that there is not; a warning for one that this machine imitates."""
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r}: there is {', '.join(PRECISIONS)}.")
    if precision == "bf16" and device.type == "cpu" and not _cpu_computes_bf16():
        warnings.warn("This CPU does not compute in bf16; it imitates it, slower than fp32.", stacklevel=3)


def _cpu_computes_bf16() -> bool:
    # Older versions of torch cannot tell; then nobody is warned.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return not capabilities or any("bf16" in name and has for name, has in capabilities.items())
