"""What all tests share."""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

# The command line is tested as strangers' terminals see it, not as this one's is set up.
for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "DETR_CACHE"):
    os.environ.pop(name, None)

torch.set_num_threads(2)

# The default run takes a tenth of each count; `-m slow` takes all of it. Seeded, so that a failure stays.
settings.register_profile(
    "detr", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("detr")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees, or leaves something in, the user's cache."""
    monkeypatch.setenv("DETR_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
