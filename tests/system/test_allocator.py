"""The policy for memory: set by the commands alone, where there is glibc, and enough to keep a training flat."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from detrcli.system import allocator

GLIBC = allocator._is_glibc()
glibc_only = pytest.mark.skipif(not GLIBC, reason="no glibc")

# Runs code, and prints what mallopt was told and what oneDNN will be.
TOLD = """
import json, os, sys
from detrcli.system import allocator
class Libc:
    told = []
    def mallopt(self, *option): self.told.append(option)
    def malloc_trim(self, pad): self.told.append(("trim", pad))
allocator._libc = Libc
try:
    exec(sys.argv[1])
except SystemExit:
    pass
print(json.dumps([Libc.told, os.environ.get("ONEDNN_PRIMITIVE_CACHE_CAPACITY"), "torch" in sys.modules]))
"""
MODELS = "sys.argv = ['detr', 'predict', 'a', '--weights', 'nowhere']; from detrcli.cli.app import main; main()"


def told(code: str, **env: str) -> list[object]:
    # Commands that ran in this process have set it here, as they should.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ONEDNN_")}
    shown = subprocess.run(
        [sys.executable, "-c", TOLD, code], env={**inherited, **env}, capture_output=True, text=True, check=True
    )
    answer: list[object] = json.loads(shown.stdout.splitlines()[-1])
    return answer


@glibc_only
def test_a_command_sets_it_before_torch_is_there() -> None:
    options = [[number, value] for number, value in allocator.OPTIONS.values()]
    assert told(MODELS) == [options, allocator.PRIMITIVES, False]


@glibc_only
def test_what_the_environment_says_stands() -> None:
    by_name = {name: list(option) for name, option in allocator.OPTIONS.items()}
    assert told(MODELS, ONEDNN_PRIMITIVE_CACHE_CAPACITY="7", MALLOC_TOP_PAD_="0") == [
        [by_name["mmap_threshold"], by_name["trim_threshold"]], "7", False,
    ]  # fmt: skip
    assert told(MODELS, GLIBC_TUNABLES="glibc.malloc.mmap_threshold=4096")[0] == [
        by_name["trim_threshold"],
        by_name["top_pad"],
    ]


@pytest.mark.parametrize("code", ["import detrcli; detrcli.load('shapes', 'cpu')", "import detrcli.cli.app"])
def test_python_and_imports_change_nothing(code: str) -> None:
    assert told(code)[:2] == [[], None]


@pytest.mark.parametrize("answer", [None, "musl 1.2", ValueError, OSError, AttributeError])
def test_elsewhere_nothing_is_done(answer: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """On musl, macOS and Windows, each of which says in its own way that there is no glibc."""

    def confstr(name: str) -> object:
        if isinstance(answer, type):
            raise answer
        return answer

    monkeypatch.setattr(os, "confstr", confstr, raising=False)
    monkeypatch.setattr(allocator, "_libc", lambda: pytest.fail("a C library was asked"))
    before = dict(os.environ)
    allocator.keep_large_blocks()
    allocator.give_back()
    assert dict(os.environ) == before


@glibc_only
def test_the_options_are_glibcs_own() -> None:
    """In a process of its own: mallopt says 1 where it took them."""
    code = (
        "from detrcli.system import allocator as a;"
        "print([a._libc().mallopt(*option) for option in a.OPTIONS.values()], a._libc().malloc_trim(0) in (0, 1))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "[1, 1, 1] True\n"


def example() -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / "training_memory.py"
    spec = importlib.util.spec_from_file_location("training_memory", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@glibc_only
def test_training_on_pictures_of_many_sizes_stays_flat(tmp_path: Path) -> None:
    memory, said = example(), []
    memory.EPOCHS = 9  # of the script's 15
    memory.write_data(tmp_path / "data")
    command = ["-m", "detrcli", *map(str, memory.settings(tmp_path / "data", tmp_path / "run"))]
    with subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        resident = [now for now, *_ in memory.epochs_of(process, said)]
    assert process.returncode == 0, "".join(said)
    assert len(resident) == 9
    assert resident[8] <= 1.1 * resident[2], resident
