"""Devices by name."""

import torch

from detrcli.errors import MachineError, UsageError
from detrcli.system.launch import launch


def find_device(name: str) -> torch.device:
    """A device by name; "auto" is the first there is of cuda, mps, cpu. Each process of several has its own GPU."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, usable in there.items() if usable)
    if name.isdecimal():  # as nvidia-smi counts them
        name = f"cuda:{name}"
    if name == "cuda" and launch().world > 1:
        name = f"cuda:{launch().local}"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in there:
        raise UsageError(f"device {name!r}: there is auto, cpu, cuda, cuda:N (or N) and mps.")
    if not there[device.type] or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        usable = ", ".join(kind for kind, usable in there.items() if usable)
        raise MachineError(f"device {name!r}: there is no such device here. There is {usable}.")
    return device


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the CPU on a device, without waiting for what the device is at."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
