"""The memory policy: set by commands only, with glibc only, and enough to keep the memory of a training constant."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from detrcli.system import allocator

glibc_only = pytest.mark.skipif(not allocator._is_glibc(), reason="no glibc")

# Runs code, and prints the calls of mallopt, the capacity of oneDNN's cache, and whether torch was imported.
RECORDER = """
import json, os, sys
from detrcli.system import allocator
class Libc:
    calls = []
    def mallopt(self, *option): self.calls.append(option)
    def malloc_trim(self, pad): self.calls.append(("trim", pad))
allocator._libc = Libc
try:
    exec(sys.argv[1])
except SystemExit:
    pass
print(json.dumps([Libc.calls, os.environ.get("ONEDNN_PRIMITIVE_CACHE_CAPACITY"), "torch" in sys.modules]))
"""
COMMAND = "sys.argv = ['detr', 'predict', 'a', '--weights', 'nowhere']; from detrcli.cli.app import main; main()"


def run(*args: str, **env: str) -> str:
    # Commands that ran in this process have set the variable here.
    env = {name: value for name, value in os.environ.items() if not name.startswith("ONEDNN_")} | env
    return subprocess.run([sys.executable, "-c", *args], env=env, capture_output=True, text=True, check=True).stdout


def recorded(code: str, **env: str) -> list[object]:
    return json.loads(run(RECORDER, code, **env).splitlines()[0])


@glibc_only
@pytest.mark.parametrize(
    ("env", "options", "capacity"),
    [
        ({}, ["mmap_threshold", "trim_threshold", "top_pad"], allocator.PRIMITIVES),
        ({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "7", "MALLOC_TOP_PAD_": "0"}, ["mmap_threshold", "trim_threshold"], "7"),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=4096"}, ["trim_threshold", "top_pad"], allocator.PRIMITIVES),
    ],
    ids=["defaults", "malloc", "tunables"],
)
def test_a_command_sets_it_before_torch_is_imported(env: dict[str, str], options: list[str], capacity: str) -> None:
    """What the user's environment sets is kept."""
    assert recorded(COMMAND, **env) == [[list(allocator.OPTIONS[name]) for name in options], capacity, False]


@pytest.mark.parametrize("code", ["import detrcli; detrcli.load('shapes', 'cpu')", "import detrcli.cli.app"])
def test_python_and_imports_change_nothing(code: str) -> None:
    assert recorded(code)[:2] == [[], None]


@pytest.mark.parametrize("answer", [None, "musl 1.2", ValueError, OSError, AttributeError])
def test_other_c_libraries_are_left_alone(answer: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """As confstr answers on musl, macOS and Windows."""
    monkeypatch.setattr(os, "confstr", Mock(side_effect=itertools.repeat(answer)), raising=False)
    monkeypatch.setattr(allocator, "_libc", lambda: pytest.fail("the C library was called"))
    before = dict(os.environ)
    allocator.keep_large_blocks()
    allocator.release_free_memory()
    assert dict(os.environ) == before


@glibc_only
def test_glibc_accepts_the_options() -> None:
    """In its own process; mallopt returns 1 for an option that it accepts."""
    code = (
        "from detrcli.system import allocator as a;"
        "print([a._libc().mallopt(*option) for option in a.OPTIONS.values()], a._libc().malloc_trim(0) in (0, 1))"
    )
    assert run(code) == "[1, 1, 1] True\n"


@pytest.mark.slow
@glibc_only
def test_the_memory_of_training_on_many_sizes_stays_constant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import training_memory

    monkeypatch.setattr(training_memory, "EPOCHS", 9)  # of the script's 15
    training_memory.write_data(tmp_path / "data")
    lines, settings = [], training_memory.settings(tmp_path / "data", tmp_path / "run")
    with subprocess.Popen(
        [sys.executable, "-m", "detrcli", *map(str, settings)], text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        resident = [now for now, *_ in training_memory.epochs_of(process, lines)]
    assert process.returncode == 0, "".join(lines)
    assert len(resident) == 9
    assert resident[8] <= 1.1 * resident[2], resident
