"""The plan of the house, held by reading the imports."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import detrcli

PACKAGE = Path(detrcli.__file__).parent
ROOT = PACKAGE.parent

FLOORS = (
    (
        "boxes",
        "config",
        "errors",
        "guide",
        "messages",
        "polygons",
        "reporter",
        "resize",
        "run_lengths",
        "structures",
        "system",
    ),
    ("data", "losses", "model"),
    ("segmentation",),
    ("architectures",),
    ("checkpoints",),
    ("inference",),
    ("evaluation",),
    ("inspection",),
    ("render",),
    ("training",),
    ("doctor",),
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
        assert other == room or FLOOR_OF[other] < FLOOR_OF[room] or FLOOR_OF[room] == FLOOR_OF[other] == 0, other


def test_model_knows_no_config() -> None:
    assert not any("config" in imports(path) for path in FILES if room_of(path) == "model")


# A module or a tensor of a network, by its dotted name.
DOTTED = re.compile(
    r"\b(encoder|decoder|layers|self_attention|cross_attention|projection|class_head|box_head|queries|position)"
    r"\\?\.(\w|\\)|backbone\\?\.(body|conv|stage)"
)
# Where networks are known by their parts: the models, their architectures, and those who read others' files.
OWNERS = ("model", "architectures", "checkpoints/formats")


def owned(path: Path, *owners: str) -> bool:
    return path.relative_to(PACKAGE).as_posix().startswith(owners)


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def strings(path: Path) -> Iterator[str]:
    """The strings of a file that are no documentation."""
    for node in nodes(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            yield node.value


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_owners_name_the_parts_of_a_network(path: Path) -> None:
    if not owned(path, *OWNERS):
        assert not [text for text in strings(path) if DOTTED.search(text) and not text.endswith(".png")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_scoring_reads_class_logits(path: Path) -> None:
    """No softmax, and no cutting off of a last class; a model's own attention and boxes, and masks, aside."""
    if owned(path, "losses/scoring", "losses/masks", "model", "segmentation", "architectures/adapters/network"):
        return
    for node in nodes(path):
        if isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            assert called not in ("softmax", "log_softmax", "sigmoid", "logsigmoid"), ast.unparse(node)
        if isinstance(node, ast.Subscript):
            assert ast.unparse(node.slice) != "(..., :-1)", ast.unparse(node)


def test_only_variants_know_a_members_config() -> None:
    members = {
        node.name
        for path in FILES
        if owned(path, "architectures")
        for node in nodes(path)
        if isinstance(node, ast.ClassDef) and node.name.endswith("Config")
    }
    assert {"DETRConfig", "TinyConfig"} <= members
    for path in FILES:
        if not owned(path, "architectures"):
            named = {
                name
                for node in nodes(path)
                for name in (
                    getattr(node, "id", None),
                    getattr(node, "attr", None),
                    *(alias.name for alias in getattr(node, "names", []) if isinstance(alias, ast.alias)),
                )
            }
            assert not named & members, path


def test_command_line_starts_without_torch_and_numpy() -> None:
    heavy = "{'torch', 'torchvision', 'numpy', 'scipy', 'PIL', 'rich'}"
    for start in ("import detrcli", "import detrcli.cli.app"):
        code = f"import sys; {start}; print(*{heavy} & set(sys.modules))"
        shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert shown.stdout.split() == []


def test_no_two_files_of_tests_share_a_name() -> None:
    """Without packages, pytest imports each by its name alone."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))


def test_top_level_is_what_it_should_be() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    hidden = ".ci .github .gitignore .pre-commit-config.yaml"
    shown = "CHANGELOG.md LICENSE README.md detrcli examples pyproject.toml tests"
    there = {name.split("/")[0] for name in listed.stdout.splitlines()}
    assert there == set(hidden.split()) | set(shown.split())
