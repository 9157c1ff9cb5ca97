"""The plan of the house, held by reading the imports."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import detrcli

PACKAGE = Path(detrcli.__file__).parent
ROOT = PACKAGE.parent

FLOORS = (
    ("boxes", "config", "errors", "guide", "resize", "structures", "system"),
    ("data", "losses", "model"),
    ("variants",),
    ("weights",),
    ("inference",),
    ("evaluation",),
    ("inspection",),
    ("render",),
    ("training",),
    ("api",),
    ("cli",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> Iterator[str]:
    """The rooms that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        for module in modules:
            head, *rest = module.split(".")
            if head == "detrcli" and rest and rest[0] != "__version__":
                yield rest[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    """A room imports from lower floors and from itself; on the ground floor also from its neighbours."""
    room = room_of(path)
    if room in ("__init__", "__main__"):
        return
    for other in imports(path):
        assert other == room or FLOOR_OF[other] < FLOOR_OF[room] or FLOOR_OF[room] == FLOOR_OF[other] == 0, (
            other
        )


def test_model_knows_no_config() -> None:
    assert not any("config" in imports(path) for path in FILES if room_of(path) == "model")


def test_command_line_starts_without_torch_and_numpy() -> None:
    heavy = "{'torch', 'torchvision', 'numpy', 'scipy', 'PIL', 'rich'}"
    for start in ("import detrcli", "import detrcli.cli.app"):
        code = f"import sys; {start}; print(*{heavy} & set(sys.modules))"
        shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert shown.stdout.split() == []


def test_top_level_is_what_it_should_be() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    hidden = ".ci .github .gitignore .pre-commit-config.yaml"
    shown = "CHANGELOG.md LICENSE README.md detrcli examples pyproject.toml tests"
    there = {name.split("/")[0] for name in listed.stdout.splitlines()}
    assert there == set(hidden.split()) | set(shown.split())
