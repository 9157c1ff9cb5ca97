"""Devices by name, and the precision that they compute in."""

import pytest
import torch

from detrcli.errors import MachineError, UsageError
from detrcli.system.devices import PRECISIONS, check_precision, computing_in, exact_float32, find_device

CPU = torch.device("cpu")


def test_devices_and_precisions_by_name() -> None:
    assert find_device("cpu").type == "cpu"
    assert find_device("auto").type in ("cuda", "mps", "cpu")
    for name in ("gpu", "cuda:x", "", "meta"):
        with pytest.raises(UsageError, match=f"device={name}`"):
            find_device(name)
    with pytest.raises(MachineError, match=r"device=cuda:99.*no such device.*cpu"):
        find_device("cuda:99")
    with pytest.raises(UsageError, match=r"precision=fp8.*fp32, bf16, fp16"):
        check_precision("fp8", CPU)


def test_exact_float32_restores_the_settings() -> None:
    switches = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    before = [switch.fp32_precision for switch in switches]
    with exact_float32():
        assert [switch.fp32_precision for switch in switches] == ["ieee", "ieee"]
    assert [switch.fp32_precision for switch in switches] == before


@pytest.mark.parametrize("precision", PRECISIONS)
def test_products_have_the_precision(precision: str) -> None:
    """Inside the context, and float32 again after it, also after an exception."""
    a, dtypes = torch.rand(4, 4), []

    def fail() -> None:
        with computing_in(precision, CPU):
            dtypes.append((a @ a).dtype)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert dtypes == [PRECISIONS[precision]]
    assert (a @ a).dtype == torch.float32
