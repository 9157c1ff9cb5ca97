"""Devices by name."""

import pytest

from detrcli.errors import MachineError, UsageError
from detrcli.system.devices import find_device


def test_devices() -> None:
    assert find_device("cpu").type == "cpu"
    assert find_device("auto").type in ("cuda", "mps", "cpu")
    for name in ("gpu", "cuda:x", "", "meta"):
        with pytest.raises(UsageError, match="device"):
            find_device(name)
    with pytest.raises(MachineError, match=r"no such device here\. There is .*cpu"):
        find_device("cuda:99")
