"""The numbers that a network computes in, and that all is as before afterwards."""

import pytest
import torch

from detrcli.errors import UsageError
from detrcli.system.devices import PRECISIONS, check_precision, computing_in, exact_float32

CPU = torch.device("cpu")


def test_float32_is_float32_and_settings_come_back() -> None:
    switches = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    before = [switch.fp32_precision for switch in switches]
    with exact_float32():
        assert [switch.fp32_precision for switch in switches] == ["ieee", "ieee"]
    assert [switch.fp32_precision for switch in switches] == before


@pytest.mark.parametrize("precision", PRECISIONS)
def test_products_are_of_the_precision(precision: str) -> None:
    """Inside, and float32 again behind it, also behind an error."""
    a, seen = torch.rand(4, 4), []

    def fail() -> None:
        with computing_in(precision, CPU):
            seen.append((a @ a).dtype)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert seen == [PRECISIONS[precision]]
    assert (a @ a).dtype == torch.float32


def test_an_unknown_precision_names_those_there_are() -> None:
    with pytest.raises(UsageError, match="precision 'fp8': there is fp32, bf16, fp16"):
        check_precision("fp8", CPU)
